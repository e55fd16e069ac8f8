"""Answers from an exported text model, in TensorFlow alone.

    python serve.py SAVED_MODEL/1 "A text with a <extra_id_0> blank."

This file is run as a script: it imports neither Keras nor this package, and makes sure
that nothing else does. TensorFlow Text only lends its library of tokenizer operations.
"""

import contextlib
import importlib.util
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
FORBIDDEN = ("keras", "keras_switch")


@contextlib.contextmanager
def quiet():
    """Hides what TensorFlow says about the machine before its log level applies."""
    stderr = os.dup(2)
    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def main(directory, *texts):
    """Prints the texts with their blanks filled in."""
    for name in FORBIDDEN:
        # Importing one of them is now an error.
        sys.modules[name] = None
    with quiet():
        import tensorflow as tf

        tf.config.list_logical_devices()
    (package,) = importlib.util.find_spec("tensorflow_text").submodule_search_locations
    tf.load_op_library(str(pathlib.Path(package, "python/ops/_sentencepiece_tokenizer.so")))
    serve = tf.saved_model.load(directory).signatures["serving_default"]
    outputs = serve(text=tf.constant(texts))
    for text, filled in zip(texts, outputs["filled"].numpy(), strict=True):
        print(f"Text:   {text}\nFilled: {filled.decode()}")
    loaded = [name for name in FORBIDDEN if sys.modules[name] is not None]
    if loaded:
        raise RuntimeError(f"The answer must not need {loaded}")
    print(f"Answered by TensorFlow {tf.__version__} without {' or '.join(FORBIDDEN)}.")


if __name__ == "__main__":
    main(*sys.argv[1:])
