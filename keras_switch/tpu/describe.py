"""What each core of a mesh holds and exchanges, as a table."""

import math

import keras

from keras_switch.layers.switch_dense import SwitchDense


def table(layout, axes_of, model):
    """Returns a table that a person can read.

    Args:
        layout: `Layout`.
        axes_of: Callable. For a variable, the mesh axis or `None` of each dimension.
        model: Built `keras.Model` or layer.

    Returns:
        string: a line for each weight, the sum, and a line for each layer with experts.
    """
    rows = [("weight", "shape", "slice", "KiB a core", "gradient summed over")]
    total = 0
    for weight in model.weights:
        axes = axes_of(weight)
        sizes = [layout.axes.get(axis, 1) for axis in axes]
        slice_shape = [size // parts for size, parts in zip(weight.shape, sizes)]
        num_bytes = math.prod(slice_shape) * _bytes(weight.dtype)
        total += num_bytes
        summed = [axis for axis in layout.axes if axis not in axes]
        over = " and ".join(summed) if weight.trainable else ""
        shapes = ("x".join(map(str, shape)) for shape in (weight.shape, slice_shape))
        rows.append((weight.path, *shapes, f"{num_bytes / 1024:,.1f}", over or "-"))
    rows.append(("all weights", "", "", f"{total / 1024:,.1f}", ""))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        "  ".join(x.rjust(n) if i == 3 else x.ljust(n) for i, (x, n) in enumerate(zip(row, widths)))
        for row in rows
    ]
    lines = [line.rstrip() for line in lines]
    layers = [layer for layer in _layers(model) if isinstance(layer, SwitchDense)]
    return "\n".join(lines + [_exchanges(layout, layer) for layer in layers])


def _bytes(dtype):
    return keras.ops.convert_to_numpy(keras.ops.zeros((), dtype)).itemsize


def _layers(model):
    return model._flatten_layers(include_self=True)


def _exchanges(layout, layer):
    """What crosses between the cores in a training step of one layer."""
    axis, hidden = layout.axis("experts"), layout.axis("expert_hidden")
    if axis is None and hidden is None:
        return f"{layer.path}: every core holds all of its experts, and exchanges no token"
    parts = []
    if axis is not None:
        cores = layout.axes[axis]
        parts.append(
            f"4 all-to-alls (2 forward, 2 backward) over {axis}, {cores - 1}/{cores} of the slots"
        )
    if hidden is not None:
        parts.append(f"its slots gathered over {hidden} and its outputs summed over it")
    if layer.overflow == "dropless":
        parts = ["its tokens gathered and its outputs summed over the cores that share experts"]
    return f"{layer.path}: {'; '.join(parts)}; in {layer.compute_dtype}"
