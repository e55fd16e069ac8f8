"""Meshes of JAX devices, models to put on them, and what they compute."""

import contextlib
import functools

import keras
import numpy as np
from keras import ops
from switch_helpers import make

from keras_switch.layers import SwitchTransformerBlock
from keras_switch.tpu import Mesh

IS_JAX = keras.config.backend() == "jax"
if IS_JAX:
    import jax

    jax.config.update("jax_num_cpu_devices", 8)

EXPERTS = "batch:batch,experts:batch"
HIDDEN = f"{EXPERTS},expert_hidden:model"
DENSE = f"{HIDDEN},heads:model,d_ff:model,vocab:model"
MESHES = [
    ("batch:8", EXPERTS),
    ("batch:4", EXPERTS),
    ("batch:2", EXPERTS),
    ("batch:1", EXPERTS),
    ("outer:2,inner:4", "outer_batch:outer,batch:inner,experts:inner"),
    ("batch:4,model:2", HIDDEN),
    ("model:2,batch:4", DENSE),
    ("batch:4,model:2", "batch:batch,expert_hidden:model"),
    ("outer:2,inner:2,model:2", "outer_batch:outer,batch:inner,experts:inner,expert_hidden:model"),
]


@contextlib.contextmanager
def on(mesh):
    """Builds on a mesh, or on one device where there is none."""
    if mesh is None:
        yield
    else:
        with Mesh(*mesh, devices=jax.devices()).scope():
            yield


def layer_on(mesh, shape, **kwargs):
    with on(mesh):
        layer = make(8, **{"num_groups": 8} | kwargs)
        layer.build(shape)
    return layer


def dense_model():
    """A functional model with a `SwitchDense`."""
    inputs = keras.Input((6, 8))
    initializer = keras.initializers.RandomNormal(seed=1)
    x = keras.layers.Dense(8, kernel_initializer=initializer)(inputs)
    x = x + make(8, num_groups=8, expert_dropout=0.1, name="switch")(x)
    return keras.Model(inputs, x)


def transformer():
    """A functional model with dense and sparse blocks, and a tied embedding."""
    ids = keras.Input((6,), dtype="int32")
    embedding = keras.layers.ReversibleEmbedding(
        16,
        8,
        embeddings_initializer=keras.initializers.RandomNormal(seed=1),
        dtype="float32",
        name="tokens",
    )
    switch = {"num_groups": 8}
    block = functools.partial(SwitchTransformerBlock, 2, 16, causal=True, dtype="float32")
    x = block(seed=2, name="dense")(embedding(ids))
    x = block(8, seed=3, switch=switch, name="sparse")(x, padding_mask=ops.not_equal(ids, 0))
    return keras.Model(ids, embedding(x, reverse=True))


def compiled(model, loss):
    # Adam makes whole steps of gradients that are rounding errors, if its epsilon is below them.
    model.compile(keras.optimizers.Adam(1e-2, epsilon=1e-4, name="adam"), loss)
    return model


def rows():
    rng = np.random.default_rng(0)
    return rng.normal(size=(2, 32, 6, 8)).astype("float32")


def ids():
    return np.random.default_rng(0).integers(0, 16, (2, 32, 6)).astype("int32")


def train(model, x, y, epochs=10):
    """Twenty steps; returns their losses."""
    return model.fit(x, y, 16, epochs, verbose=0, shuffle=False).history["loss"]


def cross_entropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def trained(build, loss, data, mesh):
    """A model that was trained after the scope was left, and its losses."""
    with on(mesh):
        model = compiled(build(), loss)
    return model, train(model, *data)
