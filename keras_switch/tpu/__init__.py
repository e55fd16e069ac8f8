"""Where tensors live and how they move between cores: meshes, and rehearsals of them.

Read in this order:

- `cores.py`: `connect`, which finds a TPU, GPUs, or virtual cores of the CPU.
- `layout.py`: the two strings of Mesh TensorFlow, and what they split; `DIMENSIONS`.
- `mesh.py`: `Mesh`, which a user sees: `scope`, `optimizer`, `whole`, `describe`.
- `tensorflow/`: how a mesh works on the TensorFlow backend, from `tensorflow/replicas.py` on.
- `jax/`: how it works on the JAX backend, from `jax/shards.py` on.
- `describe.py`: the table of what a core holds and what is exchanged.
- `precision.py`: `highest_float32`, for chips that round float32 products.
- `rehearsal/`: `rehearse`, the train step compiled for a slice that is not there.
- `mtf.py`: Mesh TensorFlow, imported on a TensorFlow that it was not written for.
"""

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
