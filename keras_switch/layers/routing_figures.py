"""What a router does, kept where a user can see it."""

import keras
from keras import ops

from keras_switch.layers import routing

SCALARS = ("dropped", "busiest", "entropy", "balance_loss", "z_loss")


def measure(record, mask_GS, losses):
    """One step's figures, in the order of `SCALARS` and then the load of each expert.

    Args:
        record: `Routing` of the groups.
        mask_GS: float32 tensor of ones and zeros.
        losses: Pair of float32 scalars, the balance loss and the z-loss.

    Returns:
        float32 tensor of shape `(5 + E,)`.
    """
    num_experts = record.logits.shape[-1]
    lost_GS = ops.cast(ops.logical_not(ops.any(record.kept, axis=-1)), "float32")
    dropped = ops.mean(routing.masked_mean(lost_GS, mask_GS))
    taken_GSE = ops.mean(routing.one_hot(record.experts, num_experts), axis=-2)
    load_E = ops.mean(routing.masked_mean(taken_GSE, mask_GS), axis=0)
    busiest = num_experts * ops.max(load_E)
    entropy = routing.entropy(record.logits, mask_GS)
    figures = ops.concatenate([ops.stack([dropped, busiest, entropy, *losses]), load_E])
    return ops.stop_gradient(figures)


def averages(totals):
    """Means a step of totals `[steps, *figures]`, as a dictionary.

    Args:
        totals: float tensor or array of shape `(6 + E,)`.

    Returns:
        Dictionary of the five scalars by name, and `load`, of shape `(E,)`.
    """
    means = totals[1:] / ops.maximum(totals[0], 1.0)
    figures = {name: means[index] for index, name in enumerate(SCALARS)}
    return {**figures, "load": means[len(SCALARS) :]}


class RoutingMetric(keras.metrics.Metric):
    """Shows a layer's figures in the logs of `fit` on the TensorFlow backend.

    It has no state of its own: the layer updates its `routing_totals` as it is called
    in training. Evaluation shows no figures.
    """

    def __init__(self, figures, reset, **kwargs):
        super().__init__(**kwargs)
        self._figures = figures
        self._reset = reset

    def update_state(self, *args, **kwargs):
        """Does nothing: the layer's call updates the totals."""

    def reset_state(self):
        self._reset()

    def result(self):
        return self._figures()
