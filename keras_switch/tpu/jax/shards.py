"""A mesh on the JAX backend: one device a core, and one program for all of them."""

import contextlib

import keras

from keras_switch.layers import parallelism
from keras_switch.tpu import cores
from keras_switch.tpu.jax.sharding import MeshDistribution
from keras_switch.tpu.jax.sharding import ShardedExperts


class Shards:
    """The distribution of a mesh.

    Args:
        layout: `Layout`.
        devices: List of JAX devices. Defaults to those that `connect` found.

    Attributes:
        distribution: `keras.distribution.Distribution`.
        experts: `ShardedExperts`.
    """

    def __init__(self, layout, devices=None):
        devices = cores.found().devices if devices is None else devices
        self.distribution = MeshDistribution(layout, devices)
        self.experts = ShardedExperts(layout, devices)

    @contextlib.contextmanager
    def scope(self):
        keras.distribution.set_distribution(self.distribution)
        with parallelism.use(self.experts):
            yield

    @contextlib.contextmanager
    def outside(self):
        """Within it, each device gets whole weights; Keras still divides batches over the mesh."""
        layouts = keras.distribution.LayoutMap(self.distribution.device_mesh)
        with keras.distribution.ModelParallel(layout_map=layouts).scope():
            yield

    def optimizer(self, optimizer):
        return optimizer

    def axes_of(self, variable):
        return variable._layout.axes
