"""Answers from an exported text model, in TensorFlow alone.

    python serve.py SAVED_MODEL/1 "A text with a <extra_id_0> blank."

This file is run as a script: it imports neither Keras nor this package, and makes sure
that nothing else does. TensorFlow Text only lends its library of tokenizer operations.
"""

import importlib.util
import os
import pathlib
import sys

FORBIDDEN = ("keras", "keras_switch")


def main(directory, *texts):
    """Prints the texts with their blanks filled in."""
    for name in FORBIDDEN:
        # Importing one of them is now an error.
        sys.modules[name] = None
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    (package,) = importlib.util.find_spec("tensorflow_text").submodule_search_locations
    tf.load_op_library(str(pathlib.Path(package, "python/ops/_sentencepiece_tokenizer.so")))
    serve = tf.saved_model.load(directory).signatures["serving_default"]
    outputs = serve(text=tf.constant(texts))
    for text, filled in zip(texts, outputs["filled"].numpy(), strict=True):
        print(f"Text:   {text}\nFilled: {filled.decode()}")
    print(f"Answered by TensorFlow {tf.__version__} without {' or '.join(FORBIDDEN)}.")


if __name__ == "__main__":
    main(*sys.argv[1:])
