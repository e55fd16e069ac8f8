"""Times a training step of our model on TensorFlow. A worker of `train_step.py`."""

import importlib.metadata

import keras
import numpy as np
import tensorflow as tf
import worker

from keras_switch.models import SwitchSeq2SeqLM

STEPS = {}


def versions():
    return {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "keras-hub")}


def prepare(kwargs, batch, length, threads):
    """Builds Switch-Base with 8 experts, and warms up its step.

    Args:
        kwargs: Dictionary of arguments that replace those of `"switch_base_8"`.
        batch: int. Rows.
        length: int. Tokens of a row of the encoder, and of the decoder.
        threads: int. Threads of one operation.

    Returns:
        The number of weights.
    """
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    keras.utils.set_random_seed(0)
    model = SwitchSeq2SeqLM.from_preset(
        "switch_base_8", load_weights=False, dtype="float32", z_loss_weight=0.0, **kwargs
    )
    model.compile(optimizer=keras.optimizers.SGD(1e-3), jit_compile=False)
    random = np.random.default_rng(0)
    ids = random.integers(2, 32000, (3, batch, length)).astype("int32")
    ones = np.ones((batch, length), "int32")
    inputs = {
        "encoder_token_ids": ids[0],
        "encoder_padding_mask": ones,
        "decoder_token_ids": ids[1],
        "decoder_padding_mask": ones,
    }
    STEPS["train"] = lambda: model.train_on_batch(inputs, ids[2])
    for _ in range(2):
        STEPS["train"]()
    return sum(np.prod(weight.shape) for weight in model.trainable_weights).item()


def seconds():
    """Returns how long one step takes, and how long all threads work for it."""
    return worker.seconds(STEPS["train"])


if __name__ == "__main__":
    worker.answer({function.__name__: function for function in (versions, prepare, seconds)})
