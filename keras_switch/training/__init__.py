"""Recipes, and what they are made of.

`pretrain.py` is the recipe, `run_directory.py` what it keeps on the disk. Everything else serves
any Keras model.
"""

from keras_switch.configs import PretrainConfig
from keras_switch.training.adafactor import Adafactor
from keras_switch.training.callbacks import LoadRecorder
from keras_switch.training.callbacks import ProgressBar
from keras_switch.training.callbacks import RoutingMetrics
from keras_switch.training.checkpoint import Checkpoint
from keras_switch.training.checkpoint import latest
from keras_switch.training.checkpoint import restore
from keras_switch.training.guard import TrainingGuard
from keras_switch.training.inspection import inspect_experts
from keras_switch.training.run_files import Figures
from keras_switch.training.run_files import HistoryCSV
from keras_switch.training.run_files import TensorBoard
from keras_switch.training.schedules import InverseSquareRoot
from keras_switch.training.schedules import RelativeStep
from keras_switch.training.training_state import TrainingState

__all__ = [
    "Adafactor",
    "Checkpoint",
    "InverseSquareRoot",
    "Figures",
    "HistoryCSV",
    "LoadRecorder",
    "PretrainConfig",
    "ProgressBar",
    "RelativeStep",
    "RoutingMetrics",
    "TensorBoard",
    "TrainingGuard",
    "TrainingState",
    "inspect_experts",
    "latest",
    "restore",
]
