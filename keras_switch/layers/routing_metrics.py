"""What a router does, kept where a user can see it."""

import keras
from keras import ops

from keras_switch.layers import routing

SCALARS = ("dropped", "busiest", "entropy", "balance_loss", "z_loss")


def measure(record, plan, mask_GS, losses):
    """A step's metrics of each group, in the order of `SCALARS`, then each expert's load.

    Args:
        record: `Routing` of the groups.
        plan: `placement.Plan` of the groups, or `None`.
        mask_GS: float32 tensor of ones and zeros.
        losses: Pair of float32 tensors `(G,)`, the balance loss and the z-loss.

    Returns:
        float32 tensor of shape `(G, 5 + E)`.
    """
    num_experts = record.logits.shape[-1]
    lost_GS = ops.cast(ops.logical_not(ops.any(record.kept, axis=-1)), mask_GS.dtype)
    dropped_G = routing.masked_mean(lost_GS, mask_GS)
    if plan is not None and plan.order_GN is not None:
        counts_GE = ops.cast(plan.counts_GE, mask_GS.dtype)
        load_GE = counts_GE / ops.maximum(ops.sum(counts_GE, axis=-1, keepdims=True), 1.0)
    else:
        taken_GSE = ops.mean(routing.one_hot(record.experts, num_experts, mask_GS.dtype), axis=-2)
        load_GE = routing.masked_mean(taken_GSE, mask_GS)
    busiest_G = num_experts * ops.max(load_GE, axis=-1)
    entropy_G = routing.entropy(record.logits, mask_GS)
    scalars_GN = ops.stack([dropped_G, busiest_G, entropy_G, *losses], axis=-1)
    metrics_GN = ops.concatenate([scalars_GN, load_GE], axis=-1)
    return ops.stop_gradient(ops.cast(metrics_GN, "float32"))


class RoutingTotals:
    """Sums of a layer's routing metrics over training steps: state that is no weight.

    A reset leaves the sums readable, and makes the next step start anew: so they
    outlive the evaluation at the end of an epoch, before which Keras resets metrics.

    Args:
        num_experts: int.

    Attributes:
        variable: float32 `keras.Variable` of shape `(6 + E,)`: the number of steps,
            negative after a reset, and the sums.
    """

    def __init__(self, num_experts):
        self.variable = keras.Variable(
            "zeros",
            shape=(1 + len(SCALARS) + num_experts,),
            dtype="float32",
            trainable=False,
            autocast=False,
            synchronization="on_read",
            aggregation="mean",
            name="routing_totals",
        )

    def add(self, metrics_GN):
        """Adds one step's `measure`, averaged over the groups."""
        metrics = ops.mean(metrics_GN, axis=0)
        totals = ops.convert_to_tensor(self.variable)
        totals = ops.where(totals[0] < 0, ops.zeros_like(totals), totals)
        self.variable.assign(totals + ops.concatenate([ops.ones((1,), "float32"), metrics]))

    def reset(self):
        """Makes the next step start anew."""
        totals = ops.convert_to_tensor(self.variable)
        self.variable.assign(ops.concatenate([-ops.abs(totals[:1]), totals[1:]]))

    def averages(self):
        """Means over the steps: the five `SCALARS` by name, and `load`, of shape `(E,)`."""
        totals = ops.convert_to_tensor(self.variable)
        means = totals[1:] / ops.maximum(ops.abs(totals[0]), 1.0)
        metrics = {name: means[index] for index, name in enumerate(SCALARS)}
        return {**metrics, "load": means[len(SCALARS) :]}


class KeepsRoutingMetrics:
    """What a layer with the attribute `routing_metrics` keeps of them, and shows."""

    def _build_routing_metrics(self, num_experts):
        if self.routing_metrics:
            self._totals = RoutingTotals(num_experts)

    @property
    def variables(self):
        """The weights, the seeds, and the sums of the routing metrics, which are no weight."""
        variables = super().variables
        if self.built and self.routing_metrics:
            variables.append(self._totals.variable)
        return variables

    @property
    def routing_totals(self):
        """float32 variable: steps and the sums of their routing metrics; see `RoutingTotals`."""
        self._check_metrics()
        return self._totals.variable

    def get_routing_metrics(self):
        """Averages over the training steps since the last reset, or before it if none.

        Returns:
            Dictionary of floats: `dropped`, the fraction of tokens that no expert took;
            `busiest`, the load of a group's busiest expert over an even share; `entropy`
            of the router, in nats; `balance_loss` and `z_loss`, not weighted; and of
            `load`, an array with each expert's share of the tokens.

        Raises:
            ValueError: If `routing_metrics` is False, or the layer is not built.
        """
        self._check_metrics()
        averages = self._totals.averages()
        metrics = {name: ops.convert_to_numpy(value) for name, value in averages.items()}
        return {name: x if name == "load" else float(x) for name, x in metrics.items()}

    def reset_routing_metrics(self):
        """Starts the averages of `get_routing_metrics` anew at the next training step."""
        self._check_metrics()
        self._totals.reset()

    def _check_metrics(self):
        if not self.routing_metrics or not self.built:
            raise ValueError(
                "Only a built layer with `routing_metrics=True` keeps routing metrics. Received: "
                f"routing_metrics={self.routing_metrics}, built={self.built}"
            )
