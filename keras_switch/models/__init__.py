"""Whole models of the Switch Transformer family."""

from keras_switch.models.presets import PRESETS
from keras_switch.models.switch_backbone import SwitchBackbone

__all__ = ["PRESETS", "SwitchBackbone"]
