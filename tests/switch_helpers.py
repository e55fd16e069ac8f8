"""Small Switch layers and their inputs."""

import keras
import numpy as np
from keras import ops

from keras_switch.layers import SwitchDense


def tokens(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def make(num_experts=4, intermediate_dim=8, seed=0, **kwargs):
    """A float32 layer whose router decides clearly."""
    kwargs = {
        "dtype": "float32",
        "router_initializer": keras.initializers.RandomNormal(0, 1, seed=seed),
    } | kwargs
    return SwitchDense(num_experts, intermediate_dim, seed=seed, **kwargs)


def run(layer, inputs, **kwargs):
    return np.asarray(ops.convert_to_numpy(ops.cast(layer(inputs, **kwargs), "float32")))
