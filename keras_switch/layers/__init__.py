"""Keras layers of the Switch Transformer."""

from keras_switch.layers.routing import Routing
from keras_switch.layers.scopes import dropless
from keras_switch.layers.switch_dense import SwitchDense

__all__ = ["Routing", "SwitchDense", "dropless"]
