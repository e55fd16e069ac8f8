"""Prints how many raw tokens seqio's tokenizer and T5's span corruption take a second, as JSON.

python benchmarks/data_seqio_worker.py --seconds 10      (needs t5 and seqio)
"""

import argparse
import json
import pathlib
import sys
import tempfile
import time

import seqio
import tensorflow as tf
from t5.data import preprocessors

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from keras_switch import data  # noqa: E402

LENGTHS = {"inputs": 512, "targets": 114}


def pipeline(lines, model, batch_size):
    """Batches of a T5 pre-training task without its cache, as a model takes them."""
    vocabulary = seqio.SentencePieceVocabulary(str(model), extra_ids=100)
    features = {side: seqio.Feature(vocabulary) for side in LENGTHS}
    dataset = tf.data.Dataset.from_tensor_slices({"targets": lines}).repeat()
    dataset = seqio.preprocessors.tokenize(dataset, features, copy_pretokenized=False)
    dataset = preprocessors.span_corruption(dataset, LENGTHS, features)
    dataset = seqio.preprocessors.append_eos(dataset, features)
    dataset = seqio.EncDecFeatureConverter(pack=False)(dataset, LENGTHS)
    return dataset.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def measure(dataset, first_sentinel, seconds):
    """Tokens of the text in a second: ids that are no padding, no end and no sentinel."""
    batches = iter(dataset)
    for _ in range(4):
        next(batches)
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        batch = next(batches)
        for name in ("encoder_input_tokens", "decoder_target_tokens"):
            ids = batch[name].numpy()
            count += ((ids > 1) & (ids < first_sentinel)).sum()
    return count / elapsed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--vocabulary_size", type=int, default=2048)
    parser.add_argument("--batch_size", type=int, default=32)
    options = parser.parse_args()
    lines = data.read_corpus()
    # Without its sentinels, which seqio adds.
    first_sentinel = options.vocabulary_size - 100
    proto = data.train_sentencepiece(lines[:5000], first_sentinel, num_sentinels=0)
    with tempfile.TemporaryDirectory() as folder:
        model = pathlib.Path(folder) / "spiece.model"
        model.write_bytes(proto)
        dataset = pipeline(lines, model, options.batch_size)
        speed = measure(dataset, first_sentinel, options.seconds)
        print(json.dumps({"tokens_per_second": round(speed)}))


if __name__ == "__main__":
    main()
