"""Small Transformer blocks, their inputs, and weights that both backends can share."""

import keras
import numpy as np
from keras import ops

from keras_switch.layers import SwitchTransformerBlock


def tokens(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def make(num_experts=4, **kwargs):
    return SwitchTransformerBlock(2, 16, num_experts, **{"dtype": "float32"} | kwargs)


def run(layer, *args, **kwargs):
    """The outputs as float32 numpy, without the caches."""
    outputs = layer(*args, **kwargs)
    outputs = outputs[0] if isinstance(outputs, tuple) else outputs
    return numpy(outputs)


def numpy(tensor):
    return np.asarray(ops.convert_to_numpy(ops.cast(tensor, "float32")))


def weights_by_name(layer):
    """The weights by their path below the layer, which the backend does not change."""
    return {weight.path.split("/", 1)[1]: weight for weight in layer.weights}


def set_random_weights(layer, seed=0, scale=0.3):
    """Gives a built layer the same weights on every backend."""
    rng = np.random.default_rng(seed)
    for _, weight in sorted(weights_by_name(layer).items()):
        weight.assign(scale * rng.normal(size=weight.shape))


def compiled(function):
    """The function under XLA."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function, jit_compile=True)
