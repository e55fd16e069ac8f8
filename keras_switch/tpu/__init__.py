"""Where tensors live and how they move between cores."""

from keras_switch.tpu.cores import connect
from keras_switch.tpu.layout import DIMENSIONS
from keras_switch.tpu.mesh import Mesh
from keras_switch.tpu.precision import highest_float32

__all__ = ["DIMENSIONS", "Mesh", "connect", "highest_float32"]
