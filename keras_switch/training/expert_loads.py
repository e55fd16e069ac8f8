"""What each expert takes between two looks at the routers."""

import keras

from keras_switch.layers import fit_logs
from keras_switch.layers.routing_metrics import SCALARS


class ExpertLoads:
    """Reads by how much the loads of a model's experts have grown.

    A layer sums its loads over an epoch: `begin_epoch` comes before the first step of one, and a
    last `read` after it.
    """

    def __init__(self):
        self._seen = {}

    def begin_epoch(self, model):
        self._seen = _totals(model, before_a_step=True)

    def read(self, model):
        """What the loads have grown by since the last read, by layer path, arrays `(E,)`."""
        loads = _totals(model)
        growth = {path: load - self._seen.get(path, 0.0) for path, load in loads.items()}
        self._seen = loads
        return growth


def _totals(model, before_a_step=False):
    """Sums of the loads by layer path. After a reset the next step starts from zero."""
    loads = {}
    for layer in fit_logs.switch_layers(model):
        totals = keras.ops.convert_to_numpy(layer.routing_totals).astype("float64")
        starts_anew = before_a_step and totals[0] < 0
        loads[layer.path] = totals[1 + len(SCALARS) :] * (not starts_anew)
    return loads
