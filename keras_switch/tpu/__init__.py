"""Where tensors live and how they move between cores."""

from keras_switch.tpu.precision import highest_float32

__all__ = ["highest_float32"]
