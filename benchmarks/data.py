"""Time the pipeline from text to batches next to the bare tokenizer.

Tokens are those of the raw text. Rows take turns; a ratio is the median of the rounds' ratios.

    python benchmarks/data.py
"""

import argparse
import importlib.metadata
import os
import pathlib
import tempfile
import time

import numpy as np
import report

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf  # noqa: E402

from keras_switch import data  # noqa: E402
from keras_switch import models  # noqa: E402
from keras_switch.data import shards  # noqa: E402

LINES_AT_ONCE = 4096
# The inputs' length and the texts of a batch.
SHAPES = ((512, 32), (128, 16), (32, 64))


def tokenizer_alone(lines, tokenizer):
    """A function that tokenizes all lines, and returns how many tokens they have."""
    lines = tf.constant(lines, tf.string)

    def run():
        batches = tf.data.Dataset.from_tensor_slices(lines).batch(LINES_AT_ONCE)
        rows = batches.map(lambda batch: tokenizer(batch).flat_values, tf.data.AUTOTUNE)
        return sum(len(row) for row in rows.prefetch(2))

    return run


def text_to_array(lines, tokenizer):
    return lambda: len(data.tokenize_corpus(lines, tokenizer))


def encoder(lines, tokenizer):
    """What a worker of `keras-switch prepare` does."""
    encode = data.tokens.Encoder(tokenizer.proto)
    return lambda: len(encode(lines))


def batches(tokens, tokenizer, inputs_length, batch_size):
    """A function that makes batches of as many tokens as the text has, at most 200."""
    made = data.SpanCorruptionBatches(tokens, tokenizer, inputs_length, batch_size)
    num_batches = min(made.batches_per_epoch, 200)
    dataset = made.dataset(num_batches=num_batches)

    def run():
        for _ in dataset:
            pass
        return num_batches * batch_size * made.plan.length

    return run


def speed(function):
    """Tokens a second, in millions."""
    start = time.perf_counter()
    num_tokens = function()
    return num_tokens / (time.perf_counter() - start) / 1e6


def contenders(lines, tokenizer, folder):
    """Functions by the names of their rows, the bare tokenizer first."""
    tokens = data.tokenize_corpus(lines, tokenizer)
    dtype = shards.token_dtype(tokenizer.vocabulary_size())
    path = str(folder / "tokens-00000-00000.array_record")
    written = shards.write_shard(path, [(tokens, len(lines))], dtype)
    shards.write_index(str(folder), [written], tokenizer.proto, dtype)
    sources = {"in memory": tokens, "prepared": data.PreparedTokens(folder)}
    functions = {
        "the tokenizer alone": tokenizer_alone(lines, tokenizer),
        "`tokenize_corpus`": text_to_array(lines, tokenizer),
        "a worker of `prepare`": encoder(lines, tokenizer),
    }
    for length, batch_size in SHAPES:
        for name, source in sources.items():
            row = f"batches of {batch_size} x {length} inputs, {name}"
            functions[row] = batches(source, tokenizer, length, batch_size)
    return functions


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="times that each is run")
    parser.add_argument("--output", type=pathlib.Path, help="markdown file to write, too")
    flags = parser.parse_args()
    lines = data.read_corpus()
    tokenizer = models.SwitchTokenizer(data.train_sentencepiece(lines[:5000], 2048))
    names = ("tensorflow", "tensorflow-text", "sentencepiece", "array-record")
    versions = {name: importlib.metadata.version(name) for name in names}
    with report.Report(flags.output) as out, tempfile.TemporaryDirectory() as folder:
        functions = contenders(lines, tokenizer, pathlib.Path(folder))
        for function in functions.values():
            function()
        speeds = [[speed(f) for f in functions.values()] for _ in range(flags.rounds)]
        out.title("From text to batches", versions)
        out.write(
            "The corpus of the package, 2,048 ids; millions of raw tokens a second, medians of "
            f"{flags.rounds} rounds.\n"
        )
        out.head(["what", "Mtokens/s", "to the tokenizer alone"])
        for column, name in enumerate(functions):
            ratio = np.median([row[column] / row[0] for row in speeds])
            out.row([name, f"{np.median([row[column] for row in speeds]):.2f}", f"{ratio:.2f}"])


if __name__ == "__main__":
    main()
