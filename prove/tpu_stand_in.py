"""The real `tf.distribute.TPUStrategy` where there is no TPU: virtual CPU cores hold its variables.

What it runs can be traced, and not executed.
"""

import os
import types

os.environ["KERAS_BACKEND"] = "tensorflow"

import numpy as np
import tensorflow as tf
from tensorflow.python.distribute import distribute_lib
from tensorflow.python.distribute import tpu_strategy

_HOST = "/job:localhost/replica:0/task:0/device:"


class _Cores(tf.distribute.cluster_resolver.ClusterResolver):
    """Names TPU cores that do not exist."""

    def __init__(self, count):
        self._count = count

    def get_tpu_system_metadata(self):
        return types.SimpleNamespace(
            devices=[types.SimpleNamespace(name=f"{_HOST}TPU:{i}") for i in range(self._count)],
            num_hosts=1,
            num_of_cores_per_host=self._count,
            num_cores=self._count,
            topology=None,
        )

    def cluster_spec(self):
        return tf.train.ClusterSpec({})

    def master(self, *args, **kwargs):
        return ""

    def num_accelerators(self, *args, **kwargs):
        return {}


def strategy(cores=8):
    """Returns a `TPUStrategy` of so many cores. Call it before TensorFlow has its devices."""
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * cores
    )
    result = object.__new__(tf.distribute.TPUStrategy)
    extended = tpu_strategy.TPUExtended(result, _Cores(cores))
    extended._tpu_devices = np.array([[f"{_HOST}CPU:{i}"] for i in range(cores)], dtype=object)
    distribute_lib.Strategy.__init__(result, extended)
    result._enable_packed_variable_in_eager_mode = True
    return result
