"""Where tensors live and how they move between cores."""

from keras_switch.tpu.cores import connect
from keras_switch.tpu.layout import DIMENSIONS
from keras_switch.tpu.mesh import Mesh
from keras_switch.tpu.precision import highest_float32
from keras_switch.tpu.rehearsal.chips import CHIPS
from keras_switch.tpu.rehearsal.rehearse import rehearse
from keras_switch.tpu.rehearsal.report import Rehearsal

__all__ = [
    "CHIPS",
    "DIMENSIONS",
    "Mesh",
    "Rehearsal",
    "connect",
    "highest_float32",
    "rehearse",
]
