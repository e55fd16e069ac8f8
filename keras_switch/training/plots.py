"""Pictures of a run."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from keras_switch import atomic

TRAIN_COLOR, VALIDATION_COLOR = "#4269d0", "#d1495b"


def plot_losses(history, path, steps_per_epoch, title="Loss", metric="nats_per_token"):
    """Draws a loss of each epoch, in training and on held-out text.

    Args:
        history: Dictionary of lists, with the metric and maybe its `val_` twin.
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


def _save(figure, path):
    """Writes a PNG, whole or not at all."""
    FigureCanvasAgg(figure)
    with atomic.whole(path) as beside:
        figure.savefig(beside, format="png", dpi=150)
