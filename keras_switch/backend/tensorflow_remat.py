"""The two runs of a layer inside a function of `keras.remat`, here `tf.recompute_grad`."""

import contextlib
import threading

import tensorflow as tf

from keras_switch.private.keras import in_stateless_scope
from keras_switch.private.tensorflow import get_variable_scope
from keras_switch.private.tensorflow import pywrap_tfe

# First runs to remember of a layer, where nobody asks for their gradients.
MOST = 256


class RematRuns(threading.local):
    """Tells the runs of one layer apart, and gives the second run the seeds of the first one.

    TensorFlow runs the function once while all tapes pause, and once more in the backward pass,
    in a variable scope of its own. The last call runs again first.
    """

    def __init__(self):
        self._first_runs = []

    def seeds(self, draw):
        """Returns the seeds of a call in training, and which of its runs this is.

        Args:
            draw: Function that draws new seeds.

        Returns:
            The seeds, and `"first"`, `"again"`, or `"only"` where there is no `keras.remat`.
        """
        if in_stateless_scope():  # The caller holds the state of the seeds.
            return draw(), "only"
        graph, scope = tf.compat.v1.get_default_graph(), get_variable_scope()
        # Another graph's tensors cannot be used in this one.
        self._first_runs = [run for run in self._first_runs[-MOST:] if run[0] is graph]
        if pywrap_tfe.TFE_Py_TapeSetIsStopped():
            seeds = draw()
            self._first_runs.append((graph, scope, seeds))
            return seeds, "first"
        if self._first_runs and self._first_runs[-1][1] is not scope:
            return self._first_runs.pop()[2], "again"
        return draw(), "only"


@contextlib.contextmanager
def recorded():
    """Makes the tapes that pause record what is inside the `with` block."""
    pywrap_tfe.TFE_Py_TapeSetRestartOnThread()
    try:
        yield
    finally:
        pywrap_tfe.TFE_Py_TapeSetStopOnThread()
