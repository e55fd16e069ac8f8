"""Keras layers of the Switch Transformer: the mathematics, on any number of cores.

Read in this order:

- `routing.py`: which expert takes which token, with which gate; losses and capacity; the letters of
  the dimensions.
- `router.py`: how a token ranks the experts, with noise in training.
- `token_choice.py`: the paper's algorithm, by which a token chooses its expert; `expert_choice.py`
  and `algorithms.py`: another one, and the table of all.
- `placement.py`: which tokens find room, as integer maps between tokens and slots.
- `dispatch.py`: tokens to slots and back, by two gathers.
- `experts.py`: what the experts compute.
- `switching.py`: all of that for the groups of one core, from tokens to outputs and losses.
- `switch_dense.py`: the Keras layer around it: `SwitchDense`.
- `attention.py`, `relative_position_bias.py`, `switch_transformer_block.py`: T5's block around it.
- `parallelism.py`: the interface that a mesh fills in; the layers know no mesh.
- `scopes.py`: `dropless()`. The rest serves these: checks, grouping, noise, metrics, dtypes.
"""

import keras

from keras_switch.layers import fit_logs
from keras_switch.layers.relative_position_bias import RelativePositionBias
from keras_switch.layers.routing import Routing
from keras_switch.layers.scopes import dropless
from keras_switch.layers.switch_dense import SwitchDense
from keras_switch.layers.switch_transformer_block import SwitchTransformerBlock

if keras.backend.backend() == "tensorflow":
    fit_logs.show_in_every_fit()

__all__ = [
    "RelativePositionBias",
    "Routing",
    "SwitchDense",
    "SwitchTransformerBlock",
    "dropless",
]
