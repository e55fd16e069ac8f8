import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras_switch.tpu  # noqa: E402

# All tests of a process share its devices, and a mesh needs eight.
keras_switch.tpu.connect(cores=8)
