"""Where a run is, beside its model."""

import dataclasses
import json
import pathlib

STATE_NAME = "state.json"


@dataclasses.dataclass
class TrainingState:
    """Where a run is, beside its model.

    Attributes:
        step: int. Batches read so far: the number of the next one.
        epoch: int. Finished epochs.
        epoch_step: int. Batches read in the unfinished epoch.
        history: Dictionary of lists, the logs of the finished epochs; NaN where an epoch has none.
        variables: Dictionary of the values of what Keras does not save: seeds, and what
            layers count.
        metrics: Dictionary of the values of the metrics, in an unfinished epoch.
        parts: Dictionary of what the parts of `Checkpoint` keep.
    """

    step: int = 0
    epoch: int = 0
    epoch_step: int = 0
    history: dict = dataclasses.field(default_factory=dict)
    variables: dict = dataclasses.field(default_factory=dict)
    metrics: dict = dataclasses.field(default_factory=dict)
    parts: dict = dataclasses.field(default_factory=dict)


def read_state(path):
    """The `TrainingState` of a checkpoint."""
    path = pathlib.Path(path) / STATE_NAME
    if not path.is_file():
        raise ValueError(
            f"`path` must be a checkpoint, a directory with a {STATE_NAME}. "
            f"Received: path={str(path.parent)!r}"
        )
    try:
        return TrainingState(**json.loads(path.read_text()))
    except (TypeError, ValueError) as error:
        raise ValueError(f"The checkpoint is damaged. Received: {path} ({error})") from None
