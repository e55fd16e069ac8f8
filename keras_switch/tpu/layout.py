"""Which axis of the mesh splits which dimension of a tensor, in Mesh TensorFlow's words."""

import itertools

import keras
import numpy as np

from keras_switch.tpu.mtf import mesh_tensorflow

_BOTH = ("tensorflow", "jax")

# Every dimension that a rule may name: what it is, and the Keras backends that split it.
DIMENSIONS = {
    "outer_batch": ("tokens, over an axis along which the experts are replicated", _BOTH),
    "batch": ("tokens", _BOTH),
    "experts": ("experts of a sparse layer", _BOTH),
    "expert_hidden": ("hidden units of each expert", _BOTH),
    "heads": ("attention heads", ("jax",)),
    "d_ff": ("hidden units of a dense feed-forward layer", ("jax",)),
    "vocab": ("entries of the vocabulary", ("jax",)),
}
# The argument that gives a dimension its size.
_ARGUMENTS = {
    "experts": "num_experts",
    "expert_hidden": "intermediate_dim",
    "heads": "num_heads",
    "d_ff": "intermediate_dim",
    "vocab": "vocabulary_size",
}
_TOKENS = ("outer_batch", "batch")
# Pairs that some tensor has both of, so that one axis cannot split both.
_TOGETHER = [
    _TOKENS,
    ("experts", "expert_hidden"),
    *itertools.product(_TOKENS, ("expert_hidden", "heads", "d_ff", "vocab")),
]


class Layout:
    """A mesh of cores and the tensor dimensions that its axes split.

    Core `i` has the row-major coordinates of `i` in the mesh. Every core holds its own tokens: the
    batch is divided over all axes but those that split `heads`, `d_ff` or `vocab`.

    Args:
        shape: str. The mesh: the name and the size of each axis, such as `"batch:4,model:2"`.
        layout: str. The rules, each a dimension and the axis that splits it, such as
            `"batch:batch,experts:batch,expert_hidden:model"`. `DIMENSIONS` lists the dimensions.

    Raises:
        ValueError: if a string cannot be read or the mesh cannot be used in this way.

    Example:

    >>> layout = Layout("batch:2,model:2", "batch:batch,experts:batch,expert_hidden:model")
    >>> layout.slice_shape("kernel_in", ("experts", None, "expert_hidden"), (8, 16, 64))
    (4, 16, 32)
    >>> layout.groups(["batch"])
    [[0, 2], [1, 3]]
    """

    def __init__(self, shape, layout):
        self._strings = (shape, layout)
        self.axes = self._read_axes(shape)
        rules = self._read_rules(layout)
        self._mesh = mesh_tensorflow().MeshImpl(shape, layout)
        self._check_rules(rules)

    def __repr__(self):
        return "Layout({!r}, {!r})".format(*self._strings)

    @property
    def num_cores(self):
        """The number of cores of the mesh."""
        return int(np.prod(list(self.axes.values())))

    def axis(self, dimension):
        """Return the name of the axis that splits a dimension, `None` if none does."""
        _check_dimension(dimension)
        mtf = mesh_tensorflow()
        index = self._mesh.tensor_dimension_to_mesh_axis(mtf.Dimension(dimension, 1))
        return None if index is None else list(self.axes)[index]

    def size(self, dimension):
        """Return the number of parts into which a dimension is split."""
        return self.axes.get(self.axis(dimension), 1)

    def split(self, name, dimensions, shape):
        """Return the axis that splits each dimension of a tensor, `None` for a whole one.

        Args:
            name: str. The tensor's name, for errors.
            dimensions: sequence. A name of `DIMENSIONS` or `None` for each dimension.
            shape: sequence of ints. The whole tensor's shape.

        Raises:
            ValueError: if a size does not divide over the cores of its axis, or one axis splits two
                dimensions.
        """
        shape = self._tensor_shape(name, dimensions, shape)
        try:
            indices = self._mesh.tensor_layout(shape).tensor_axis_to_mesh_axis
        except ValueError as error:
            raise ValueError(
                f"One axis cannot split two dimensions of one tensor. Received: {self}, "
                f"name={name!r}, dimensions={tuple(dimensions)}"
            ) from error
        names = tuple(None if i is None else list(self.axes)[i] for i in indices)
        for dimension, axis in zip(shape, names):
            self._check_divides(name, dimension, axis)
        return names

    def slice_shape(self, name, dimensions, shape):
        """Return the shape of a core's slice of a tensor: arguments and errors as of `split`."""
        self.split(name, dimensions, shape)
        return tuple(self._mesh.slice_shape(self._tensor_shape(name, dimensions, shape)))

    def coordinates(self, axis):
        """Return each core's coordinate along an axis, an int array `(num_cores,)`."""
        self._check_axes([axis])
        index = list(self.axes).index(axis)
        return np.unravel_index(np.arange(self.num_cores), tuple(self.axes.values()))[index]

    def groups(self, axes):
        """Return the lists of cores that differ only along `axes`, each in ascending order."""
        axes = self._check_axes(axes)
        cores = np.arange(self.num_cores).reshape(tuple(self.axes.values()))
        inner = [index for index, axis in enumerate(self.axes) if axis in axes]
        cores = np.moveaxis(cores, inner, range(-len(inner), 0))
        size = int(np.prod([self.axes[axis] for axis in set(axes)]))
        return cores.reshape(-1, size).tolist()

    def _read_axes(self, shape):
        try:
            axes = [tuple(axis) for axis in mesh_tensorflow().convert_to_shape(_string(shape))]
        except ValueError:
            axes = []
        sizes = dict(axes)
        if not axes or len(sizes) < len(axes) or "" in sizes or min(sizes.values()) < 1:
            raise ValueError(
                "`shape` must name each axis of the mesh once, with its number of cores, at least "
                f"1, such as 'batch:4,model:2'. Received: shape={shape!r}"
            )
        return sizes

    def _read_rules(self, layout):
        """Return {dimension: axis}."""
        try:
            rules = dict(sorted(mesh_tensorflow().convert_to_layout_rules(_string(layout))._pairs))
        except ValueError:
            rules = {}
        if not rules or layout.count(":") > len(rules):
            raise ValueError(
                "`layout` must give each dimension that is split one rule 'dimension:axis', such "
                f"as 'batch:batch,experts:batch'. Received: layout={layout!r}"
            )
        return rules

    def _check_rules(self, rules):
        backend = keras.config.backend()
        for dimension, axis in rules.items():
            _check_dimension(dimension)
            if axis not in self.axes:
                raise ValueError(
                    f"Rule '{dimension}:{axis}' names an axis that the mesh does not have: use one "
                    f"of {list(self.axes)}. Received: {self}"
                )
            backends = DIMENSIONS[dimension][1]
            if backend not in backends:
                raise ValueError(
                    f"Dimension '{dimension}' is split on the backends {backends} only: leave "
                    f"rule '{dimension}:{axis}' out, or set KERAS_BACKEND. Received: {self}, "
                    f"keras.config.backend()={backend!r}"
                )
        for axis in self.axes:
            if axis not in rules.values():
                raise ValueError(
                    f"No rule uses axis '{axis}' of the mesh: add one, such as 'batch:{axis}', or "
                    f"leave the axis out. Received: {self}"
                )
        for one, other in _TOGETHER:
            if one in rules and rules[one] == rules.get(other):
                raise ValueError(
                    f"Dimensions '{one}' and '{other}' of one tensor cannot share axis "
                    f"'{rules[one]}': give '{other}' an axis of its own, or none. Received: {self}"
                )
        if "experts" in rules and rules["experts"] not in [rules.get(x) for x in _TOKENS]:
            raise ValueError(
                f"Axis '{rules['experts']}' splits the experts and must split the tokens that they "
                f"exchange: add rule 'batch:{rules['experts']}', or move 'experts' to the axis of "
                f"'batch'. Received: {self}"
            )

    def _check_axes(self, axes):
        unknown = [axis for axis in axes if axis not in self.axes]
        if unknown:
            raise ValueError(
                f"The mesh has no such axis: use those of {list(self.axes)}. Received: {unknown}"
            )
        return set(axes)

    def _tensor_shape(self, name, dimensions, shape):
        """Return Mesh TensorFlow's shape; a whole dimension is named by its place."""
        if len(dimensions) != len(shape):
            raise ValueError(
                "`dimensions` must have one entry for each dimension of `shape`. Received: "
                f"name={name!r}, dimensions={tuple(dimensions)}, shape={tuple(shape)}"
            )
        for dimension in dimensions:
            if dimension is not None:
                _check_dimension(dimension)
        pairs = [(x or str(i), int(shape[i])) for i, x in enumerate(dimensions)]
        return mesh_tensorflow().Shape(pairs)

    def _check_divides(self, name, dimension, axis):
        cores = self.axes.get(axis, 1)
        if dimension.size % cores:
            argument = _ARGUMENTS.get(dimension.name, dimension.name)
            more = " (more cores than it has)" if dimension.size < cores else ""
            raise ValueError(
                f"{argument}={dimension.size} does not divide over {cores} cores of axis "
                f"'{axis}'{more}. Use a multiple of {cores}, or an axis whose size divides "
                f"{dimension.size}. Received: {self}, name={name!r}"
            )


def _string(value):
    if not isinstance(value, str):
        raise ValueError
    return value


def _check_dimension(dimension):
    if dimension not in DIMENSIONS:
        raise ValueError(
            f"No dimension of that name can be split: use one of {list(DIMENSIONS)}. "
            f"Received: {dimension!r}"
        )
