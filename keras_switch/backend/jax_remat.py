"""Stands for `tensorflow_remat`: JAX runs a function of `keras.remat` once."""

import contextlib

recorded = contextlib.nullcontext


class RematRuns:
    """Draws the seeds of each call; see `tensorflow_remat`."""

    def seeds(self, draw):
        return draw(), "only"
