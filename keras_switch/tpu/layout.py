"""Which axis of a mesh splits which dimension of a tensor, in Mesh TensorFlow's words."""

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
# The argument of a layer that sizes the dimension.
_ARGUMENTS = {
    "experts": "num_experts",
    "expert_hidden": "intermediate_dim",
    "heads": "num_heads",
    "d_ff": "intermediate_dim",
    "vocab": "vocabulary_size",
}
_TOKENS = ("outer_batch", "batch")
# No axis can split both: some tensor has the two of them.
_TOGETHER = [
    _TOKENS,
    ("experts", "expert_hidden"),
    *itertools.product(_TOKENS, ("expert_hidden", "heads", "d_ff", "vocab")),
]


class Layout:
    """The axes of a mesh of cores, and the tensor dimensions that they split.

    Core `i` has the row-major coordinates of `i` in the mesh. Every core holds its own tokens,
    whatever the axes split: the batch is divided over all of them, but for an axis that splits
    `heads`, `d_ff` or `vocab`, whose cores hold the same tokens.

    Args:
        shape: str. Name and size of each axis of the mesh, such as `"batch:4,model:2"`.
        layout: str. A rule for each dimension that is split, with the axis that splits it, such as
            `"batch:batch,experts:batch,expert_hidden:model"`. `DIMENSIONS` lists the dimensions.

    Attributes:
        axes: dict. The size of each axis by its name, in the order of `shape`.
        num_cores: int. The cores of the mesh.
        strings: tuple. `shape` and `layout` as given.

    Raises:
        ValueError: if a string cannot be read, or the mesh cannot be split in this way.

    Example:

    >>> layout = Layout("batch:2,model:2", "batch:batch,experts:batch,expert_hidden:model")
    >>> layout.slice_shape("kernel_in", ("experts", None, "expert_hidden"), (8, 16, 64))
    (4, 16, 32)
    >>> layout.groups(["batch"])
    [[0, 2], [1, 3]]
    """

    def __init__(self, shape, layout):
        self.strings = shape, layout
        self.axes = _read_shape(shape)
        self._rules = _read_layout(layout)
        self._check_rules(self._rules)
        self._mesh = mesh_tensorflow().MeshImpl(shape, layout)
        self.num_cores = self._mesh.size

    def __repr__(self):
        return "Layout({!r}, {!r})".format(*self.strings)

    def axis(self, dimension):
        """Returns the name of the axis that splits a dimension, `None` if there is none."""
        return self._rules.get(_known(dimension))

    def size(self, dimension):
        """Returns the number of parts of a dimension, 1 if it is whole."""
        return self.axes.get(self.axis(dimension), 1)

    def split(self, name, dimensions, shape):
        """Returns the axes that split a tensor, a name or `None` for each dimension.

        Args:
            name: str. The tensor's name, for errors.
            dimensions: sequence. A name of `DIMENSIONS` or `None` for each dimension.
            shape: sequence of int. The whole tensor's shape.

        Raises:
            ValueError: if a size does not divide over the cores of its axis, or one axis would
                split two dimensions.
        """
        tensor = self._tensor(name, dimensions, shape)
        try:
            indices = self._mesh.tensor_layout(tensor).tensor_axis_to_mesh_axis
        except ValueError as error:
            raise ValueError(
                "One axis cannot split two dimensions of a tensor: name one of them `None`. "
                f"Received: name={name!r}, dimensions={tuple(dimensions)}, {self}"
            ) from error
        axes = tuple(None if index is None else list(self.axes)[index] for index in indices)
        for (dimension, size), axis in zip(tensor, axes):
            cores = self.axes.get(axis, 1)
            if size % cores:
                raise ValueError(
                    f"{_ARGUMENTS.get(dimension, dimension)}={size} does not divide over {cores} "
                    f"cores of axis '{axis}'{', which are more' if size < cores else ''}. Use a "
                    f"multiple of {cores}, or an axis whose size divides {size}. "
                    f"Received: name={name!r}, shape={tuple(shape)}, {self}"
                )
        return axes

    def slice_shape(self, name, dimensions, shape):
        """Returns the shape of a core's slice of a tensor. Arguments and errors as in `split`."""
        self.split(name, dimensions, shape)
        return tuple(self._mesh.slice_shape(self._tensor(name, dimensions, shape)))

    def coordinates(self, axis):
        """Returns the coordinate of each core along an axis, an int array `(num_cores,)`."""
        (index,) = self._indices([axis])
        return np.indices(self._mesh.shape.to_integer_list)[index].ravel()

    def groups(self, axes):
        """Returns the groups of cores that differ only along `axes`, each a list of ascending ids.

        Args:
            axes: sequence. Names of axes; without any, each core is a group.
        """
        return mesh_tensorflow().processor_groups(self._mesh.shape, self._indices(axes))

    def _indices(self, axes):
        for axis in axes:
            if axis not in self.axes:
                raise ValueError(
                    f"The mesh has no such axis: use one of {list(self.axes)}. Received: {axis!r}"
                )
        return [list(self.axes).index(axis) for axis in axes]

    def _tensor(self, name, dimensions, shape):
        """Returns Mesh TensorFlow's shape, where its place names a dimension that is `None`."""
        if len(dimensions) != len(shape):
            raise ValueError(
                "`dimensions` and `shape` must have the same length. Received: "
                f"name={name!r}, dimensions={tuple(dimensions)}, shape={tuple(shape)}"
            )
        names = [str(i) if x is None else _known(x) for i, x in enumerate(dimensions)]
        return mesh_tensorflow().Shape(list(zip(names, map(int, shape))))

    def _check_rules(self, rules):
        for dimension, axis in rules.items():
            backends = DIMENSIONS[_known(dimension)][1]
            if axis not in self.axes:
                raise ValueError(
                    f"Rule '{dimension}:{axis}' names an axis that the mesh does not have: use one "
                    f"of {list(self.axes)}. Received: {self}"
                )
            if keras.config.backend() not in backends:
                raise ValueError(
                    f"Dimension '{dimension}' is split on {' and '.join(backends)} only: set "
                    f"KERAS_BACKEND, or leave rule '{dimension}:{axis}' out. "
                    f"Received: {self}, keras.config.backend()={keras.config.backend()!r}"
                )
        for axis in self.axes:
            if axis not in rules.values():
                raise ValueError(
                    f"No rule uses axis '{axis}' of the mesh: add one, such as 'outer_batch:{axis}'"
                    f" or 'expert_hidden:{axis}', or leave the axis out. Received: {self}"
                )
        for one, other in _TOGETHER:
            if one in rules and rules[one] == rules.get(other):
                raise ValueError(
                    f"Axis '{rules[one]}' cannot split both '{one}' and '{other}': give one of "
                    f"them another axis, or no rule. Received: {self}"
                )
        if "experts" in rules and rules["experts"] not in [rules.get(x) for x in _TOKENS]:
            raise ValueError(
                f"Axis '{rules['experts']}' splits the experts, so it must split the tokens that "
                "they exchange too: give 'batch' and 'experts' the same axis. "
                f"Received: {self}"
            )


def _read_shape(shape):
    """Returns the size of each axis by its name."""
    try:
        axes = list(mesh_tensorflow().convert_to_shape(_string(shape)))
    except ValueError:
        axes = []
    sizes = dict(axes)
    if not axes or len(sizes) < len(axes) or "" in sizes or min(sizes.values()) < 1:
        raise ValueError(
            "`shape` must be a string that names each axis of the mesh once, with its number of "
            f"cores, at least 1: such as 'batch:4,model:2'. Received: shape={shape!r}"
        )
    return sizes


def _read_layout(layout):
    """Returns the axis of each dimension that has a rule."""
    try:
        rules = dict(sorted(mesh_tensorflow().convert_to_layout_rules(_string(layout))._pairs))
    except ValueError:
        rules = {}
    if not rules or len(rules) < layout.count(":"):
        raise ValueError(
            "`layout` must be a string with one rule 'dimension:axis' for each dimension that is "
            f"split: such as 'batch:batch,experts:batch'. Received: layout={layout!r}"
        )
    return rules


def _string(value):
    """Returns a string unchanged: Mesh TensorFlow would take other things too."""
    if not isinstance(value, str):
        raise ValueError
    return value


def _known(dimension):
    """Returns the name of a dimension unchanged."""
    if dimension not in DIMENSIONS:
        raise ValueError(
            f"There is no such dimension: use one of {list(DIMENSIONS)}. Received: {dimension!r}"
        )
    return dimension
