"""The mesh on the JAX backend: where data and weights lie, and how groups are exchanged."""

import re

import jax
import keras
import numpy as np
from jax.sharding import PartitionSpec

from keras_switch.layers import parallelism
from keras_switch.tpu import calls
from keras_switch.tpu.jax.data_layout import DataLayout

# The dimensions of the weights that are no experts', by the end of their path.
_WEIGHTS = {
    r"(.*/)?(self|cross)_attention/(query|key|value)/kernel": (None, "heads"),
    r"(.*/)?(self|cross)_attention/output/kernel": ("heads", None),
    r"(.*/)?feed_forward/(input|gate)/kernel": (None, "d_ff"),
    r"(.*/)?feed_forward/output/kernel": ("d_ff", None),
    r"(.*/)?embeddings": ("vocab", None),
    r"(.*/)?reverse_embeddings": (None, "vocab"),
}


class Cores(keras.distribution.DeviceMesh):
    """The devices of a mesh.

    Attributes:
        owner: `Shards` of the mesh, `None` in a rehearsal.
    """

    owner = None


def _cores(layout, devices):
    """The first devices, in the order of the cores."""
    devices = jax.devices() if devices is None else list(devices)
    if len(devices) < layout.num_cores:
        raise ValueError(
            f"The mesh has {layout.num_cores} cores and {len(devices)} are there: make it smaller, "
            f"or call `keras_switch.tpu.connect(cores={layout.num_cores})` before anything else. "
            f"Received: {layout}, devices={devices}"
        )
    shape, names = tuple(layout.axes.values()), tuple(layout.axes)
    return Cores(shape, names, devices[: layout.num_cores])


def _data_axes(layout):
    """The axes that divide a batch: all but those along which cores share a dense layer."""
    shared = {layout.axis(dimension) for dimension in ("heads", "d_ff", "vocab")}
    return tuple(axis for axis in layout.axes if axis not in shared)


class ShardedExperts(parallelism.Parallelism):
    """A sparse layer's groups and experts, split over the devices of a mesh.

    The layer's body runs on each core, in `jax.shard_map` over all axes. What an exchange sends
    has the compute dtype, and so have the sums of `to_tokens`.

    Args:
        layout: `Layout`.
        devices: Devices of JAX in the order of the mesh's cores. Defaults to the first of
            `jax.devices()`.

    Attributes:
        cores: `Cores`.

    Raises:
        ValueError: If there are fewer devices than cores.
    """

    def __init__(self, layout, devices=None):
        self._layout = layout
        self.cores = _cores(layout, devices)
        self._data_axes = _data_axes(layout)
        # Cores that hold the same tokens outside of the layer share these out, each a part.
        shared = tuple(axis for axis in layout.axes if axis not in self._data_axes)
        self._axes = self._data_axes + shared
        self._experts = layout.axis("experts")
        self._hidden = layout.axis("expert_hidden")
        self._exchanged = tuple(axis for axis in (self._hidden, self._experts) if axis)

    def add_weight(self, layer, dimensions, **kwargs):
        axes = self._layout.split(f"{layer.path}/{kwargs['name']}", dimensions, kwargs["shape"])
        layout = keras.distribution.TensorLayout(axes, self.cores)
        layout_map = keras.distribution.LayoutMap(self.cores)
        layout_map[".*"] = layout
        with keras.distribution.ModelParallel(layout_map=layout_map).scope():
            weight = layer.add_weight(**kwargs)
        weight._layout = layout  # Keras has not asked for it where it initializes later.
        return weight

    def num_groups(self, num_groups):
        num_groups = num_groups or self._layout.num_cores
        if num_groups % self._layout.num_cores:
            raise ValueError(
                f"`num_groups` must be a multiple of the mesh's {self._layout.num_cores} cores. "
                f"Received: num_groups={num_groups}, {self._layout}"
            )
        return num_groups

    def run(self, function, weights, dimensions, *groups):
        num_groups = groups[0].shape[0]
        missing = -num_groups % self._layout.num_cores
        specs = (self._spec(*pair) for pair in zip(weights, dimensions))
        groups_spec = PartitionSpec(self._axes)
        on_each_core = jax.shard_map(
            function,
            mesh=self.cores.backend_mesh,
            in_specs=(type(weights)(*specs), *[groups_spec] * len(groups)),
            out_specs=groups_spec,
        )
        # Outside, cores that share dense layers hold the same tokens: the compiler would rather
        # divide these too, and gather the dense weights.
        outside = jax.NamedSharding(self.cores.backend_mesh, PartitionSpec(self._data_axes))

        def on_all_cores(weights, *groups):
            groups = [_padded(x_G, missing) for x_G in groups]
            groups = jax.lax.with_sharding_constraint(groups, outside)
            results = on_each_core(weights, *groups)
            results = jax.lax.with_sharding_constraint(results, outside)
            return jax.tree.map(lambda y_G: y_G[:num_groups], results) if missing else results

        return jax.jit(on_all_cores)(weights, *groups)

    def _spec(self, weight, dimensions):
        if weight is None:
            return None
        if dimensions is None:
            return PartitionSpec()
        return PartitionSpec(*self._layout.split("weight", dimensions, weight.shape))

    def to_experts(self, x_GECD):
        if self._experts:
            x_GECD = jax.lax.all_to_all(x_GECD, self._experts, 1, 0, tiled=True)
        if self._hidden:
            x_GECD = jax.lax.all_gather(x_GECD, self._hidden, tiled=True)
        return x_GECD

    def to_tokens(self, y_GECD):
        if self._hidden:
            y_GECD = jax.lax.psum_scatter(y_GECD, self._hidden, tiled=True)
        if self._experts:
            y_GECD = jax.lax.all_to_all(y_GECD, self._experts, 0, 1, tiled=True)
        return y_GECD

    def sum_over_cores(self, x):
        return jax.lax.psum(x, self._axes)

    def gather(self, x_G):
        if self._exchanged:
            x_G = jax.lax.all_gather(x_G, self._exchanged, tiled=True)
        return x_G

    def scatter_sum(self, y_G):
        if self._exchanged:
            y_G = jax.lax.psum_scatter(y_G, self._exchanged, tiled=True)
        return y_G

    def group_indices(self, num_groups):
        return self._indices(num_groups, ())

    def gathered_indices(self, num_groups):
        return self._indices(num_groups, self._exchanged)

    def _indices(self, num_groups, gathered):
        """Indices of the groups of all cores that differ from this one along `gathered`."""
        sizes = [self._layout.axes[axis] for axis in self._axes]
        others = tuple(axis for axis in self._axes if axis not in gathered)
        cores = np.arange(self._layout.num_cores, dtype="int32").reshape(sizes)
        cores = cores.transpose([self._axes.index(axis) for axis in (*others, *gathered)])
        first_G = cores.reshape(-1, int(np.prod([self._layout.axes[a] for a in gathered])))
        own = jax.lax.axis_index(others) if others else 0
        first_G = jax.numpy.asarray(first_G)[own] * num_groups
        return (first_G[:, None] + jax.numpy.arange(num_groups, dtype="int32")).reshape(-1)

    def first(self, dimension, size):
        axis = self._layout.axis(dimension)
        return jax.lax.axis_index(axis) * size if axis else 0


def _padded(x_G, missing):
    """Adds groups of masked tokens, which change nothing."""
    if not missing:
        return x_G
    return jax.numpy.pad(x_G, [(0, missing)] + [(0, 0)] * (x_G.ndim - 1))


class MeshDistribution(keras.distribution.ModelParallel):
    """Keras's view of a mesh: batches divided over the cores, weights split as the layout says.

    Every axis divides a batch, but those that split `heads`, `d_ff` or `vocab`: along them cores
    hold the same tokens and share out the attention, the dense feed-forward layers and the tables
    of `Embedding` and `ReversibleEmbedding`. Variables that no rule names are whole on each core.

    Args:
        layout: `Layout`.
        devices: Devices of JAX in the order of the mesh's cores. Defaults to the first of
            `jax.devices()`.

    Raises:
        ValueError: If there are fewer devices than cores, or if the processes do not hold
            consecutive parts of a batch.
    """

    def __init__(self, layout, devices=None):
        self._layout = layout
        self._data_axes = _data_axes(layout)
        cores = _cores(layout, devices)
        super().__init__(layout_map=keras.distribution.LayoutMap(cores))
        self._check_processes()

    def _check_processes(self):
        """Keras gives consecutive parts of a batch to the processes, in their order."""
        parts, processes = self.num_model_replicas, jax.process_count()
        if processes == 1:
            return
        cores = np.arange(self._layout.num_cores)
        part = np.zeros_like(cores)
        for axis in self._data_axes:
            part = part * self._layout.axes[axis] + self._layout.coordinates(axis)
        process = np.array([x.process_index for x in self.device_mesh.devices.flatten()])
        if parts >= processes:
            fits = part * processes // parts == process
        else:
            fits = process * parts // processes == part
        if not fits.all():
            raise ValueError(
                "Each process must hold consecutive parts of a batch, in the order of the "
                f"processes: name {list(self._data_axes)} first in the mesh, and let the "
                f"processes divide their cores evenly. Received: {self._layout}, "
                f"processes={process.tolist()}"
            )

    @property
    def num_model_replicas(self):
        """The number of parts into which a batch is divided."""
        return int(np.prod([self._layout.axes[axis] for axis in self._data_axes]))

    def __repr__(self):
        return f"MeshDistribution({self._layout!r})"

    def __eq__(self, other):
        return isinstance(other, MeshDistribution) and self._key() == other._key()

    def __hash__(self):
        return hash(self._key())

    def _key(self):
        return self._layout.strings, self.device_mesh.backend_mesh

    def get_data_layout(self, data_shape):
        """Divides the rows over the cores; outside training, those that do not divide are whole."""
        divides = data_shape and data_shape[0] % self.num_model_replicas == 0
        if divides or calls.current().trains or jax.process_count() > 1:
            return self.get_divided_layout(data_shape)
        return DataLayout(None, self.device_mesh)

    def get_divided_layout(self, data_shape):
        """The same, of which a batch whose rows do not divide raises an error."""
        return DataLayout(self._data_axes if data_shape else None, self.device_mesh)

    def get_variable_layout(self, variable):
        layout = getattr(variable, "_layout", None)
        if layout is not None:
            return layout
        axes = [None] * len(variable.shape)
        for pattern, dimensions in _WEIGHTS.items():
            if re.fullmatch(pattern, variable.path) and len(dimensions) == len(axes):
                axes = self._layout.split(variable.path, dimensions, variable.shape)
        return keras.distribution.TensorLayout(axes, self.device_mesh)

    def get_tensor_layout(self, path):
        """`None`: what lies between the layers follows from the batch and the weights."""
        return None
