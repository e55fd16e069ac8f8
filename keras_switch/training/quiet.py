"""TensorFlow without what it says about the machine."""

import os


def start_tensorflow():
    """Starts TensorFlow; hides what it prints before its log level applies."""
    stderr = os.dup(2)
    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 2)
    try:
        import tensorflow as tf

        tf.config.list_logical_devices()
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
