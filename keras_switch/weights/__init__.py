"""Weights from and to the formats of others."""

from keras_switch.weights.convert import convert

__all__ = ["convert"]
