"""Saves what the layers compute on this backend: `python backend_outputs.py OUTPUTS.npz`."""

import sys

import keras
import numpy as np
from gradients import layer_gradients
from keras import ops

from keras_switch.layers import SwitchDense
from keras_switch.layers import SwitchTransformerBlock

SWITCH = {"expert_dropout": 0.25, "z_loss_weight": 0.1, "jitter": 0.5}
LAYERS = {
    "drop": (SwitchDense, {"num_experts": 4, "intermediate_dim": 16, **SWITCH}),
    "dropless": (SwitchDense, {"num_experts": 4, "intermediate_dim": 16, "overflow": "dropless"}),
    "expert choice": (
        SwitchDense,
        {"num_experts": 4, "intermediate_dim": 16, "routing": "expert_choice", **SWITCH},
    ),
    "sparse block": (
        SwitchTransformerBlock,
        {"num_heads": 2, "intermediate_dim": 16, "num_experts": 4, "gated": True, "causal": True},
    ),
    "dense block": (SwitchTransformerBlock, {"num_heads": 2, "intermediate_dim": 16}),
}


def numbers(*shape, seed):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def outputs(layer):
    """Outputs, losses and gradients in training, from weights that no backend draws."""
    layer.build((2, 12, 8))
    for index, weight in enumerate(layer.weights):
        weight.assign(numbers(*weight.shape, seed=index) * 0.5)
    mask = np.arange(12) < np.array([[12], [7]])
    kind = "padding_mask" if isinstance(layer, SwitchTransformerBlock) else "mask"

    def loss(x):
        y = ops.cast(layer(x, **{kind: ops.array(mask)}, training=True), "float32")
        return ops.sum(y * ops.cos(ops.reshape(ops.arange(192.0), (2, 12, 8)))) + sum(layer.losses)

    value, gradients = layer_gradients(layer, loss, numbers(2, 12, 8, seed=99))
    return [value, *gradients]


def main(path):
    saved = {}
    for name, (kind, arguments) in LAYERS.items():
        for dtype in ("float32", "mixed_bfloat16"):
            layer = kind(**arguments, seed=3, dtype=dtype)
            for index, array in enumerate(outputs(layer)):
                saved[f"{name}/{dtype}/{index}"] = np.asarray(array, "float32")
    np.savez(path, backend=keras.backend.backend(), **saved)


if __name__ == "__main__":
    main(sys.argv[1])
