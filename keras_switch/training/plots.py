"""Pictures of a run."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from keras_switch import atomic

TRAIN_COLOR, VALIDATION_COLOR, SHUFFLED_COLOR = "#4269d0", "#d1495b", "#9c8fb0"


def plot_losses(history, path, steps_per_epoch, title="Loss", metric="nats_per_token"):
    """Draws a loss of each epoch, in training and on held-out text.

    Args:
        history: Dictionary of lists, with the metric, maybe also with `val_` or `val_shuffled_`
            before its name.
        path: Path of a PNG file.
        steps_per_epoch: int.
        title: string.
        metric: string. Name of the metric, a cross-entropy.

    Raises:
        ValueError: If there is no finished epoch.
    """
    if not history.get(metric):
        raise ValueError(f"`history` must hold the `{metric}` of an epoch. Received: {history}")
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    # The training loss is a mean over an epoch, the other a value at its end.
    for name, label, color, middle in (
        (metric, "training", TRAIN_COLOR, 0.5),
        (f"val_{metric}", "held-out text", VALIDATION_COLOR, 0.0),
        (f"val_shuffled_{metric}", "with the inputs of another text", SHUFFLED_COLOR, 0.0),
    ):
        values = history.get(name)
        if not values:
            continue
        steps = steps_per_epoch * (np.arange(1, len(values) + 1) - middle)
        label = f"{label}, {values[-1]:.2f} at the end"
        axes.plot(steps, values, color=color, label=label, linewidth=2, marker="o", markersize=4)
    axes.set(xlabel="step", ylabel="nats per token", title=title)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    _save(figure, path)


def plot_loads(windows, path, steps_per_window):
    """Draws the load of each expert over time, one panel a sparse layer.

    Args:
        windows: Dictionary by layer of lists of each expert's share of the tokens, as
            `LoadRecorder` keeps them.
        path: Path of a PNG file.
        steps_per_window: int.

    Raises:
        ValueError: If there is no window.
    """
    if not windows or not all(len(loads) for loads in windows.values()):
        raise ValueError("`windows` must hold a window of every layer. Received: none")
    figure = Figure(figsize=(7, 0.9 + 1.7 * len(windows)), layout="constrained")
    panels = figure.subplots(len(windows), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (layer, loads) in zip(panels, windows.items(), strict=True):
        shares = np.asarray(loads).T
        num_experts, num_windows = shares.shape
        image = axes.imshow(
            shares * num_experts,
            aspect="auto",
            interpolation="nearest",
            cmap="RdBu_r",
            vmin=0,
            vmax=2,
            extent=(0, num_windows * steps_per_window, num_experts - 0.5, -0.5),
        )
        axes.set_title(layer, fontsize=9, loc="left")
        axes.set_ylabel("expert")
        axes.yaxis.set_major_locator(MaxNLocator(8, integer=True))
    panels[-1].set_xlabel("step")
    bar = figure.colorbar(image, ax=list(panels), ticks=[0, 0.5, 1, 1.5, 2], extend="max")
    bar.set_label("load (1 = an even share)")
    figure.suptitle("Load of each expert", fontsize=12)
    _save(figure, path)


def plot_experts(layers, path, num_pieces=8, most_experts=32):
    """Draws the load of each expert, with the pieces that are typical of it beside.

    Args:
        layers: `keras_switch.training.inspection.Inspection`.
        path: Path of a PNG file.
        num_pieces: int. Pieces of each expert.
        most_experts: int. Experts of a layer that are drawn: the busiest ones.

    Raises:
        ValueError: If there is no layer.
    """
    if not layers:
        raise ValueError("`layers` must hold a layer. Received: none")
    shown = [_busiest(layer, most_experts) for layer in layers]
    heights = [len(experts) + 2 for experts in shown]
    figure = Figure(figsize=(11, 1.2 + 0.25 * sum(heights)), layout="constrained")
    rows = figure.subplots(len(layers), 2, width_ratios=(1, 6), height_ratios=heights)
    panels = np.reshape(rows, (-1, 2))
    for (cells, texts), layer, experts in zip(panels, layers, shown, strict=True):
        image = _draw_loads(cells, layer, experts)
        _draw_pieces(texts, layer, experts, num_pieces)
    bar = figure.colorbar(
        image, ax=rows, ticks=[0, 0.5, 1, 1.5, 2], extend="max", shrink=0.6, aspect=40
    )
    bar.set_label("load (1 = an even share)")
    figure.suptitle("What the experts take", fontsize=13)
    _save(figure, path)


def _busiest(layer, number):
    """Numbers of the busiest experts of a layer, in order."""
    order = sorted(range(len(layer.experts)), key=lambda i: -layer.experts[i].load)
    return sorted(order[:number])


def _draw_loads(axes, layer, experts):
    """A cell for each expert, with its load."""
    loads = np.array([[layer.experts[i].load] for i in experts])
    image = axes.imshow(loads, aspect="auto", cmap="RdBu_r", vmin=0, vmax=2)
    for row, load in enumerate(loads[:, 0]):
        color = "white" if abs(load - 1) > 0.6 else "black"
        axes.text(0, row, f"{load:.2f}", ha="center", va="center", color=color, fontsize=8)
    axes.set_yticks(range(len(experts)), experts, fontsize=8)
    axes.set_xticks([])
    axes.set_ylabel("expert", fontsize=8)
    axes.set_title(layer.name, fontsize=10, loc="left", fontweight="bold")
    axes.spines[:].set_visible(False)
    return image


def _draw_pieces(axes, layer, experts, num_pieces):
    """A line of pieces for each expert, the darker the more typical."""
    axes.set(xlim=(0, num_pieces), ylim=(len(experts) - 0.5, -0.5))
    axes.axis("off")
    dropped = ", ".join(f"{share:.0%} at {factor:g}" for factor, share in layer.dropped.items())
    dropped = f"dropped, by capacity factor: {dropped}" if dropped else ""
    axes.set_title(dropped, fontsize=8, loc="right", color="#666666")
    highest = max([np.log(x[1]) for e in layer.experts for x in e.typical if x[1] > 1] or [1.0])
    for row, expert in enumerate(experts):
        pieces = layer.experts[expert].typical[:num_pieces]
        for column, (piece, lift) in enumerate(pieces):
            darkness = 0.35 + 0.65 * np.clip(np.log(lift) / highest, 0, 1)
            style = {"va": "center", "fontsize": 9, "parse_math": False, "clip_on": True}
            piece = piece if len(piece) <= 14 else f"{piece[:13]}…"
            axes.text(column, row, piece, color=TRAIN_COLOR, alpha=darkness, **style)
        if not pieces:
            axes.text(0, row, "no token", va="center", fontsize=9, color=VALIDATION_COLOR)


def _save(figure, path):
    """Writes a PNG, whole or not at all."""
    FigureCanvasAgg(figure)
    with atomic.whole(path) as beside:
        figure.savefig(beside, format="png", dpi=150)
