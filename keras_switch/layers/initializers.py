"""Initializers and seeds for layers with several kernels."""

import hashlib

import keras


def fresh(initializer):
    """Returns an initializer for one more kernel: a clone, or the same plain callable."""
    if isinstance(initializer, keras.initializers.Initializer):
        return initializer.clone()
    return initializer


def derive(seed, role):
    """Returns the seed of one role in what has this seed, or `None` for `None`.

    Kernels of one seed would be equal. A hash keeps the roles of one seed apart, and those of
    neighbouring seeds.

    Args:
        seed: int or `None`.
        role: string. The name of a kernel, a part or a stream of noise.

    Returns:
        int in `[0, 2**31)`, or `None`.
    """
    if seed is None:
        return None
    digest = hashlib.sha256(f"{seed} {role}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def of_experts(seed):
    """The paper's initializer of `(E, inputs, outputs)`, whose fan-in is that of one expert."""
    return keras.initializers.VarianceScaling(
        0.1, mode="fan_in", input_axes=[1], output_axes=[2], seed=seed
    )


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
        is_table = shape[-1] == self.dim
        stddev, role = (1.0, "table") if is_table else (self.dim**-0.5, "logits")
        normal = keras.initializers.RandomNormal(0.0, stddev, derive(self.seed, role))
        return normal(shape, dtype)

    def get_config(self):
        return {"dim": self.dim, "seed": self.seed}
