"""Initializers for layers with several kernels."""

import keras


def fresh(initializer):
    """Returns an initializer for one more kernel: a clone, or the same plain callable."""
    if isinstance(initializer, keras.initializers.Initializer):
        return initializer.clone()
    return initializer


def offset(seed, by):
    """Returns another seed, or `None` for `None`; kernels of one seed would be equal."""
    return None if seed is None else seed + by


@keras.saving.register_keras_serializable(package="keras_switch")
class UntiedEmbedding(keras.initializers.Initializer):
    """Normal values for the two kernels of an untied `keras.layers.ReversibleEmbedding`.

    The table, `(rows, dim)`, has a deviation of 1; the logits' kernel, `(dim, rows)`, one of
    `dim**-0.5` and a seed of its own. A square kernel counts as a table.

    Args:
        dim: int. Width of the model.
        seed: int or `None`.
    """

    def __init__(self, dim, seed=None):
        self.dim = dim
        self.seed = seed

    def __call__(self, shape, dtype=None):
        stddev, by = (1.0, 0) if shape[-1] == self.dim else (self.dim**-0.5, 1)
        normal = keras.initializers.RandomNormal(0.0, stddev, offset(self.seed, by))
        return normal(shape, dtype)

    def get_config(self):
        return {"dim": self.dim, "seed": self.seed}
