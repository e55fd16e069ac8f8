"""The nearest layout, or the nearest larger slice, that holds a program."""

from keras_switch.tpu.layout import Layout
from keras_switch.tpu.rehearsal import compiler
from keras_switch.tpu.rehearsal import train_step

# Every trial takes as long as the rehearsal itself.
TRIALS = 4
_MODEL_AXIS = 16


def candidates(topology, layout):
    """Yields slices and layouts, the nearest first.

    First come other layouts of the same slice, which split weights over 1, 2, 4, ... cores of an
    axis `model` besides the experts. Then, for each larger slice of the same chip, the given
    layout with a longer `batch` axis, and the other layouts.

    Args:
        topology: `Topology`.
        layout: `Layout`.

    Yields:
        Pairs of a `Topology` and the two strings of a layout.
    """
    seen = {layout.strings}
    while topology:
        for pair in (*_longer(layout, topology.num_cores), *_splits(topology.num_cores)):
            if pair not in seen:
                seen.add(pair)
                yield topology, pair
        topology = topology.larger()


def _longer(layout, num_cores):
    """The layout with as long a batch axis as the cores fill, if it has one."""
    axes = dict(layout.axes)
    axis = layout.axis("batch") or layout.axis("outer_batch")
    if axis:
        axes[axis] *= num_cores // layout.num_cores
        yield ",".join(f"{name}:{size}" for name, size in axes.items()), layout.strings[1]


def _splits(num_cores):
    rules = "batch:batch,experts:batch"
    yield f"batch:{num_cores}", rules
    rules += ",expert_hidden:model,heads:model,d_ff:model,vocab:model"
    size = 2
    while size <= min(num_cores // 2, _MODEL_AXIS):
        yield f"batch:{num_cores // size},model:{size}", rules
        size *= 2


def nearest(program, topology, layout, say=lambda line: None):
    """Finds the first candidate that the compiler says fits.

    Candidates that do not divide the model or the batch are left out, and so are those whose
    arguments alone need more memory than there is. At most `TRIALS` are compiled.

    Args:
        program: `train_step.Program`.
        topology: `Topology`.
        layout: `Layout`.
        say: Function that is called with a line before each trial.

    Returns:
        Dict of `topology`, `mesh`, `layout` and `total` bytes of a core, or `None`.
    """
    trials = 0
    for larger, pair in candidates(topology, layout):
        try:
            step = train_step.on_devices(program, Layout(*pair), compiler.devices(larger))
            needed = step.argument_bytes
        except ValueError:
            continue
        if needed > larger.hbm:
            continue
        say(f'it does not fit: trying {larger.name}, Mesh("{pair[0]}", "{pair[1]}")')
        total = compiler.compile_step(step).memory["total"]
        if total <= larger.hbm:
            return dict(topology=larger.name, mesh=pair[0], layout=pair[1], total=total)
        trials += 1
        if trials == TRIALS:
            return None
    return None
