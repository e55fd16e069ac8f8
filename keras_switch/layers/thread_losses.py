"""Losses of a layer that is called in several threads at once."""

import threading


class _Losses(threading.local):
    def __init__(self):
        self.values = []


class ThreadLosses:
    """Makes a Keras layer keep the losses of each thread apart.

    TensorFlow calls a layer in one thread for each replica, and changes threads wherever
    replicas exchange tensors, so that one list would hold the losses of all of them.
    """

    @property
    def _losses(self):
        return self._losses_of_thread.values

    @_losses.setter
    def _losses(self, values):
        self._losses_of_thread = _Losses()
        self._losses_of_thread.values.extend(values)
