"""A mesh on the JAX backend: one device a core, and one program for all of them."""

import contextlib

from keras_switch.layers import parallelism
from keras_switch.tpu import calls
from keras_switch.tpu import cores
from keras_switch.tpu.jax import models
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
        for held in (self.distribution.device_mesh, self.experts.cores):
            held.owner = self
        calls.watch(models.at_home)
        models.place_each_batch()

    @contextlib.contextmanager
    def scope(self):
        with self.distribution.scope(), parallelism.use(self.experts):
            yield

    def outside(self):
        return models.without_distribution()

    def optimizer(self, optimizer):
        return optimizer

    def axes_of(self, variable):
        return variable._layout.axes
