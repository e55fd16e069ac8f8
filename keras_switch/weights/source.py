"""What a format of other people's weights gives to `convert`."""

import collections
import typing

import numpy as np

MOST_BLOCKS = 128  # Several times those of any T5, and built in seconds.


class Entry(typing.NamedTuple):
    """Where a weight of a `SwitchBackbone` comes from, and how.

    Attributes:
        names: Tuple of names of tensors of the source: one, or one for each expert.
        axes: Tuple of ints. Permutation that makes the weight's axes (without the experts', if
            stacked) of a tensor's. `None` leaves them as they are.
        stacked: bool. Whether each tensor is one expert of the weight.
        shape: Tuple of ints. Shape of each tensor, where it is another than the weight's
            permuted: the permuted tensor is then reshaped.
    """

    names: tuple
    axes: tuple | None = None
    stacked: bool = False
    shape: tuple | None = None

    def tensor_shape(self, weight_shape):
        """Shape that each of the source's tensors must have."""
        shape = tuple(weight_shape)[1:] if self.stacked else tuple(weight_shape)
        if self.shape is not None:
            return self.shape
        if self.axes is None:
            return shape
        return tuple(shape[self.axes.index(axis)] for axis in range(len(self.axes)))

    def to_weight(self, tensor, shape):
        """Makes a weight, or one expert of it, of a tensor; `shape` is what it must have."""
        tensor = tensor if self.axes is None else np.transpose(tensor, self.axes)
        return tensor.reshape(shape)

    def to_tensor(self, weight):
        """The inverse of `to_weight`, in C order."""
        shape = self.tensor_shape((1, *weight.shape) if self.stacked else weight.shape)
        if self.axes is None:
            return np.ascontiguousarray(weight).reshape(shape)
        permuted = weight.reshape([shape[axis] for axis in self.axes])
        return np.ascontiguousarray(np.transpose(permuted, np.argsort(self.axes)))


class Source:
    """A checkpoint in someone's format, open for reading: a context manager.

    A subclass reads names, shapes and configuration when it is made, and no tensor.

    Attributes:
        path: `pathlib.Path`.
        names_and_shapes: Dictionary from the names of all tensors to tuples of ints.
        arguments: Dictionary of arguments of `SwitchBackbone`, without `dtype`.
        duplicates: Dictionary from names of tensors to the names of those whose values they
            repeat, which is checked.
        ignored: Set of names of tensors that are no weights, such as an optimizer's slots.
        spiece: bytes. SentencePiece model of the tokenizer, or `None`.
        num_sentinels: int. Sentinels that a tokenizer without any gets.
        added_tokens: List of pairs of a token that the tokenizer does not split, and its id.
        assumed: string. A line about what the checkpoint does not tell, or what was left out, or
            `None`.
    """

    title = "a checkpoint"

    def __init__(self, path):
        self.path = path
        self.names_and_shapes = {}
        self.arguments = {}
        self.duplicates = {}
        self.ignored = frozenset()
        self.spiece = None
        self.num_sentinels = 100
        self.added_tokens = []
        self.assumed = None

    @classmethod
    def recognises(cls, path):
        """Whether there is a checkpoint of this format at a `pathlib.Path`."""
        raise NotImplementedError

    def table(self, shapes):
        """Returns a dictionary from names of weights to `Entry`s.

        Args:
            shapes: Dictionary from the names of the backbone's weights to their shapes.
        """
        raise NotImplementedError

    def read(self, name):
        """Returns a tensor as a numpy array (bfloat16 is that of `ml_dtypes`)."""
        raise NotImplementedError

    def close(self):
        """Closes what is open."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def weight_shapes(backbone):
    """Shapes of the weights of a `SwitchBackbone` by name."""
    return {name: tuple(weight.shape) for name, weight in backbone.named_weights().items()}


def check(source, shapes):
    """Requires that a source and a backbone agree, without reading a tensor.

    Args:
        source: `Source`.
        shapes: Dictionary from the names of the backbone's weights to their shapes.

    Returns:
        The source's table.

    Raises:
        ValueError: If a weight has no tensor, a tensor no weight or two, or a shape differs.
    """
    table, tensors = source.table(shapes), source.names_and_shapes
    uses = collections.Counter(name for entry in table.values() for name in entry.names)
    _refuse(source, "has nothing for these weights of the model", shapes.keys() - table.keys())
    _refuse(source, "lacks these tensors", uses.keys() - tensors.keys())
    unknown = tensors.keys() - uses.keys() - source.duplicates.keys() - source.ignored
    _refuse(source, "has tensors that the model has no place for", unknown)
    twice = [name for name, count in uses.items() if count > 1]
    _refuse(source, "would give these tensors to two weights", twice)
    wrong = []
    for weight, entry in table.items():
        if entry.stacked and len(entry.names) != shapes[weight][0]:
            wrong.append(f"{weight}: {len(entry.names)} experts (expected {shapes[weight][0]})")
        expected = entry.tensor_shape(shapes[weight])
        for name in entry.names:
            if tensors[name] != expected:
                wrong.append(f"{name}: {tensors[name]} (expected {expected})")
    _refuse(source, "has tensors of shapes that the model does not expect", wrong)
    return table


def check_depth(path, arguments):
    """Requires stacks that can be built, before they are."""
    for name in ("num_layers", "num_decoder_layers"):
        number = arguments.get(name)
        if isinstance(number, int) and number > MOST_BLOCKS:
            raise ValueError(
                f"A stack must have at most {MOST_BLOCKS} blocks. Received: input={str(path)!r}, "
                f"{name}={number}"
            )


def check_range(path, name, source, weight):
    """Requires that finite numbers stayed finite when they became a weight.

    Args:
        path: Path of the input.
        name: string. Name of the weight.
        source: Array of the numbers as they were.
        weight: Array of the numbers as they are.
    """
    if (np.isfinite(source) & ~np.isfinite(weight)).any():
        raise ValueError(
            "A number is too large for the dtype: take a wider `dtype`. Received: "
            f"input={str(path)!r}, {name}, dtype={weight.dtype.name}"
        )


def _refuse(source, what, names, shown=8):
    if names:
        more = f" and {len(names) - shown} more" if len(names) > shown else ""
        raise ValueError(
            f"{source.title} {what}. Received: input={str(source.path)!r}, "
            f"{', '.join(sorted(names)[:shown])}{more}"
        )
