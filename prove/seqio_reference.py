"""Runs T5's own data pipeline on random cases and saves what it was given and what it gave.

python prove/seqio_reference.py CASES.json      (needs t5 and seqio)
"""

import base64
import io
import itertools
import json
import sys
import types

import numpy as np
import sentencepiece
import seqio
import tensorflow as tf
from t5.data import preprocessors

VOCABULARY = seqio.PassThroughVocabulary(1000, eos_id=1)
FEATURES = {side: seqio.Feature(VOCABULARY) for side in ("inputs", "targets")}
# Length of a text, density, mean length of a span.
CORRUPTIONS = [(568, 0.15, 3.0), (96, 0.3, 2.0), (70, 0.5, 3.0), (41, 0.1, 1.0), (64, 0.75, 5.0)]
PACKED_LENGTHS = {"inputs": 64, "targets": 32}
TEXTS = [
    "The house of the people has walked.",
    "A people walks to the house, and the state of the house is good.",
    "The state of the people of the state has been good to the house.",
]


def lists(arrays):
    return {name: np.asarray(array).tolist() for name, array in arrays.items()}


def seeds(number):
    return tf.stack([[7, 2 * number], [8, 2 * number + 1]])


def draws(mask_of, number):
    """Masks of so many seeds."""
    numbers = tf.range(number)
    masks = tf.function(
        lambda: tf.map_fn(lambda i: mask_of(seeds(i)), numbers, fn_output_signature=tf.bool)
    )
    return masks().numpy()


def span_lengths():
    densities = [0.01, 0.05, 0.1, 0.15, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9]
    sizes = [*range(4, 140), 256, 512, 1024, 2048]
    for size, density, mean in itertools.product(sizes, densities, (1.0, 1.5, 2.0, 3.0, 5.0, 10.0)):
        yield size, density, mean, *preprocessors.random_spans_helper(size, density, mean, 1, 1)


def corrupted(length, density, mean, number):
    tokens = tf.constant(np.random.default_rng(number).integers(2, 800, length), tf.int32)
    mask = preprocessors.random_spans_noise_mask(length, density, seeds(number), mean)
    sides = {
        "inputs": preprocessors.noise_span_to_unique_sentinel(tokens, mask, VOCABULARY, None),
        "targets": preprocessors.nonnoise_span_to_unique_sentinel(tokens, mask, VOCABULARY, None),
    }
    (sides,) = seqio.preprocessors.append_eos(
        tf.data.Dataset.from_tensors(sides), FEATURES
    ).as_numpy_iterator()
    return {"density": density, "mean": mean, **lists({"tokens": tokens, "mask": mask, **sides})}


def possible_masks():
    """All masks of 12 tokens with three spans of 6 tokens that T5 gave in so many draws."""
    masks = draws(lambda seed: preprocessors.random_spans_noise_mask(12, 0.5, seed, 2.0), 3000)
    return np.unique(masks, axis=0).tolist()


def prefixes(length):
    """T5's prefix-LM of a row of tokens, which it cuts into chunks."""
    tokens = {"targets": np.arange(2, 702, dtype="int32")}
    options = {"output_features": FEATURES, "sequence_length": {"inputs": length}}
    dataset = preprocessors.prefix_lm(tf.data.Dataset.from_tensors(tokens), **options)
    dataset = seqio.preprocessors.append_eos(dataset, FEATURES)
    for example in dataset.as_numpy_iterator():
        yield lists(example)


def prefix_sizes(length):
    masks = draws(lambda seed: preprocessors.random_prefix_noise_mask(length, 0.5, seed), 500)
    return np.unique(masks.sum(axis=1)).tolist()


def language_model(vocabulary):
    features = {side: seqio.Feature(vocabulary) for side in ("inputs", "targets")}
    dataset = preprocessors.lm(tf.data.Dataset.from_tensor_slices({"text": TEXTS}))
    dataset = seqio.preprocessors.tokenize(dataset, features, copy_pretokenized=False)
    dataset = seqio.preprocessors.append_eos(dataset, features)
    return [lists(example) for example in dataset.as_numpy_iterator()]


def packed(number):
    """Pairs, some of which are too long, and the rows that seqio makes of them."""
    rng = np.random.default_rng(number)
    pairs = [
        {side: rng.integers(2, 800, rng.integers(1, most)) for side, most in sizes.items()}
        for sizes in [{"inputs": 40, "targets": 20}] * (number - 2) + [PACKED_LENGTHS] * 2
    ]
    pairs[1]["inputs"] = rng.integers(2, 800, 90)
    pairs[2]["targets"] = rng.integers(2, 800, 70)
    spec = {side: tf.TensorSpec((None,), tf.int32) for side in FEATURES}
    dataset = tf.data.Dataset.from_generator(lambda: iter(pairs), output_signature=spec)
    dataset = seqio.preprocessors.append_eos_after_trim(dataset, FEATURES, PACKED_LENGTHS)
    rows = seqio.EncDecFeatureConverter(pack=True)(dataset, PACKED_LENGTHS)
    return {
        "pairs": [lists(pair) for pair in pairs],
        "lengths": list(PACKED_LENGTHS.values()),
        "rows": [lists(row) for row in rows.as_numpy_iterator()],
    }


def mixing(sizes, temperature, maximum):
    """Rates of tasks of so many examples, as the shares that a mixture has."""
    tasks = [
        types.SimpleNamespace(name="task", cache_dir=None, num_input_examples=lambda _, n=n: n)
        for n in sizes
    ]
    rates = [
        seqio.mixing_rate_num_examples(task, maximum=maximum, temperature=temperature)
        for task in tasks
    ]
    shares = [rate / sum(rates) for rate in rates]
    return {"sizes": sizes, "temperature": temperature, "maximum": maximum, "shares": shares}


def sentencepiece_model():
    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=writer, vocab_size=45, model_type="unigram",
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    return writer.getvalue()


def main(path):
    model = sentencepiece_model()
    with open(f"{path}.model", "wb") as file:
        file.write(model)
    vocabulary = seqio.SentencePieceVocabulary(f"{path}.model", extra_ids=100)
    sizes = [150, 9000, 9000, 10**6, 3]
    cases = {
        "versions": {"seqio": seqio.__version__},
        "model": base64.b64encode(model).decode(),
        "sentinels": [vocabulary.vocab_size - 1 - number for number in range(100)],
        "texts": [{"text": text, "ids": vocabulary.encode(text)} for text in TEXTS],
        "span_lengths": list(span_lengths()),
        "corrupted": [corrupted(*sizes, n) for n in range(20) for sizes in CORRUPTIONS],
        "possible_masks": possible_masks(),
        "prefixes": {length: list(prefixes(length)) for length in (8, 64)},
        "prefix_sizes": prefix_sizes(9),
        "language_model": language_model(vocabulary),
        "packed": [packed(number) for number in (60, 500)],
        "mixing": [
            mixing(sizes, *options)
            for options in ((1.0, None), (1 / 0.3, None), (2.0, 8000), (1.0, 20000))
        ],
    }
    with open(path, "w") as file:
        json.dump(cases, file)


if __name__ == "__main__":
    main(sys.argv[1])
