"""Keras layers of the Switch Transformer."""

from keras_switch.layers.relative_position_bias import RelativePositionBias
from keras_switch.layers.routing import Routing
from keras_switch.layers.scopes import dropless
from keras_switch.layers.switch_dense import SwitchDense
from keras_switch.layers.switch_transformer_block import SwitchTransformerBlock

__all__ = [
    "RelativePositionBias",
    "Routing",
    "SwitchDense",
    "SwitchTransformerBlock",
    "dropless",
]
