"""The models, meshes and dtypes of the TPU programs that `tpu_lower.py` makes."""

import typing

import keras
import numpy as np
from keras import ops

from keras_switch.layers import SwitchDense
from keras_switch.layers import SwitchTransformerBlock
from keras_switch.training import Adafactor

CORES = 8
ROWS, LENGTH, OUTPUTS = 16, 12, 3
EXPERTS = 16

ONE_AXIS = ("batch:8", "batch:batch,experts:batch")
OUTER = ("outer:2,inner:4", "outer_batch:outer,batch:inner,experts:inner")
MODEL = ("batch:4,model:2", "batch:batch,experts:batch,expert_hidden:model")


class Case(typing.NamedTuple):
    """A program.

    Attributes:
        build: Callable of a dtype policy; returns a functional `keras.Model`.
        mesh: The two strings of a `Mesh`.
        dtype: Dtype policy of the layers.
        dim: int. Width of the inputs.
        tokens: Shape of the tokens of all cores, `(rows, length)`.
        optimizer: One of `OPTIMIZERS`, or `None` where the program ends with the gradients.
        runs: bool. Whether it is small enough to be executed.
    """

    build: typing.Callable
    mesh: tuple
    dtype: str
    dim: int = 32
    tokens: tuple = (ROWS, LENGTH)
    optimizer: typing.Any = None
    runs: bool = True


def _switch():
    """Arguments of a sparse layer whose noise has a part in what is compared."""
    router = keras.initializers.RandomNormal(0.0, 1.0, seed=5)
    return {"router_initializer": router, "expert_dropout": 0.1, "num_groups": CORES}


def _dense(units, dtype, seed):
    initializer = keras.initializers.GlorotUniform(seed)
    return keras.layers.Dense(units, kernel_initializer=initializer, dtype=dtype)


def layer_model(dtype):
    """A residual SwitchDense between two dense layers."""
    inputs = keras.Input((LENGTH, 32))
    mask = keras.Input((LENGTH,), dtype="int32")
    x = _dense(32, dtype, 1)(inputs)
    switch = SwitchDense(EXPERTS, 64, dtype=dtype, seed=1, **_switch())
    x = x + switch(x, mask=ops.cast(mask, "bool"))
    return keras.Model((inputs, mask), _dense(OUTPUTS, dtype, 2)(x))


def block_model(dtype):
    """Two blocks of a Switch Transformer, the second of them sparse."""
    inputs = keras.Input((LENGTH, 32))
    mask = keras.Input((LENGTH,), dtype="int32")
    padding_mask = ops.cast(mask, "bool")
    x = SwitchTransformerBlock(2, 64, seed=1, dtype=dtype)(inputs, padding_mask=padding_mask)
    sparse = SwitchTransformerBlock(2, 64, EXPERTS, seed=20, dtype=dtype, switch=_switch())
    x = sparse(x, padding_mask=padding_mask)
    return keras.Model((inputs, mask), _dense(OUTPUTS, dtype, 2)(x))


def large_layer_model(dtype):
    """A SwitchDense alone, in a size whose arithmetic is worth counting."""
    inputs = keras.Input((256, 512))
    mask = keras.Input((256,), dtype="int32")
    x = SwitchDense(EXPERTS, 2048, dtype=dtype, kernel_initializer="zeros", num_groups=CORES)(
        inputs
    )
    return keras.Model((inputs, mask), x)


def adam():
    return keras.optimizers.Adam(
        0.1, global_clipnorm=1.0, gradient_accumulation_steps=2, use_ema=True
    )


def adafactor():
    return Adafactor(
        min_dim_size_to_factor=16, global_clipnorm=1.0, gradient_accumulation_steps=2, use_ema=True
    )


def lamb():
    return keras.optimizers.Lamb(0.1, clipnorm=1.0, weight_decay=0.1)


def scaled():
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1, momentum=0.9))


# What each keeps for a split weight: moments, an accumulator, an average.
OPTIMIZERS = {adam: 2 + 1 + 1, adafactor: 2 + 1 + 1, lamb: 2, scaled: 1}

CASES = {
    "layer, bfloat16": Case(layer_model, ONE_AXIS, "mixed_bfloat16"),
    "layer, float32": Case(layer_model, ONE_AXIS, "float32"),
    "blocks, bfloat16": Case(block_model, ONE_AXIS, "mixed_bfloat16"),
    "blocks, float32": Case(block_model, ONE_AXIS, "float32"),
    "replicated experts, float32": Case(layer_model, OUTER, "float32"),
    "replicated experts, bfloat16": Case(layer_model, OUTER, "mixed_bfloat16"),
    "split width, float32": Case(layer_model, MODEL, "float32"),
    "split width, bfloat16": Case(layer_model, MODEL, "mixed_bfloat16"),
    **{
        f"{name}, float32, {make.__name__}": Case(layer_model, mesh, "float32", optimizer=make)
        for name, mesh in (
            ("layer", ONE_AXIS),
            ("replicated experts", OUTER),
            ("split width", MODEL),
        )
        for make in OPTIMIZERS
    },
    "large layer": Case(large_layer_model, ONE_AXIS, "mixed_bfloat16", 512, (64, 256), runs=False),
}


def data(case):
    """Inputs, a mask with padding, and targets, for all cores.

    The tokens lie near a few centres: rounding sends none to another expert.
    """
    rng = np.random.default_rng(6)
    centres = rng.normal(size=(EXPERTS // 2, case.dim))
    inputs = centres[rng.integers(len(centres), size=case.tokens)]
    inputs = inputs + 0.1 * rng.normal(size=inputs.shape)
    lengths = rng.integers(case.tokens[1] // 2, case.tokens[1] + 1, case.tokens[0])
    mask = (np.arange(case.tokens[1]) < lengths[:, None]).astype("int32")
    outputs = OUTPUTS if case.runs else case.dim
    targets = rng.normal(size=(*case.tokens, outputs))
    return inputs.astype("float32"), mask, targets.astype("float32")
