"""Recipes, and what they are made of.

`pretrain.py` is the recipe, `run_directory.py` what it keeps on the disk. `checkpoint.py`,
`checkpoint_sums.py`, `callbacks.py`, `adafactor.py` and `plots.py` serve any Keras model.
"""

from keras_switch.configs import PretrainConfig
from keras_switch.training.adafactor import Adafactor
from keras_switch.training.callbacks import LoadRecorder
from keras_switch.training.callbacks import ProgressBar
from keras_switch.training.callbacks import RoutingMetrics
from keras_switch.training.checkpoint import Checkpoint
from keras_switch.training.checkpoint import TrainingState
from keras_switch.training.checkpoint import latest
from keras_switch.training.checkpoint import restore
from keras_switch.training.guard import TrainingGuard
from keras_switch.training.schedules import InverseSquareRoot
from keras_switch.training.schedules import RelativeStep

__all__ = [
    "Adafactor",
    "Checkpoint",
    "InverseSquareRoot",
    "LoadRecorder",
    "PretrainConfig",
    "ProgressBar",
    "RelativeStep",
    "RoutingMetrics",
    "TrainingGuard",
    "TrainingState",
    "latest",
    "restore",
]
