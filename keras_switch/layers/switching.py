"""What a `SwitchDense` computes on the groups that one core holds."""

import typing

from keras import ops

from keras_switch.layers import dispatch
from keras_switch.layers import experts
from keras_switch.layers import router
from keras_switch.layers import routing
from keras_switch.layers import routing_figures
from keras_switch.layers import scopes


class Weights(typing.NamedTuple):
    """What a core computes with, or the names of its dimensions.

    Attributes:
        router: float32 tensor `(D, E)`.
        kernel_in: Tensor `(E, D, F)`.
        kernel_gate: Tensor `(E, D, F)`, or `None`.
        kernel_out: Tensor `(E, F, D)`.
        router_seed: Seed of the router's noise, or `None`.
        dropout_seed: Seed of the experts' dropout, or `None`.
    """

    router: typing.Any
    kernel_in: typing.Any
    kernel_gate: typing.Any
    kernel_out: typing.Any
    router_seed: typing.Any
    dropout_seed: typing.Any


DIMENSIONS = Weights(
    router=None,
    kernel_in=("experts", None, "expert_hidden"),
    kernel_gate=("experts", None, "expert_hidden"),
    kernel_out=("experts", "expert_hidden", None),
    router_seed=None,
    dropout_seed=None,
)


class Results(typing.NamedTuple):
    """A layer's outputs, and in training the losses and figures of each group.

    Attributes:
        outputs: Tensor `(G, S, D)`.
        balance: float32 tensor `(G,)`. The balance loss.
        z: float32 tensor `(G,)`. The z-loss.
        figures: float32 tensor `(G, 5 + E)`; see `routing_figures.measure`.
    """

    outputs: typing.Any
    balance: typing.Any
    z: typing.Any
    figures: typing.Any


class Switching:
    """The functions that `Parallelism.run` calls, for one layer and one kind of call.

    Args:
        layer: `SwitchDense`.
        training: bool or `None`.
    """

    def __init__(self, layer, training):
        self.layer = layer
        self.training = training
        self.parallelism = layer.parallelism

    @property
    def is_dropless(self):
        return self.layer.overflow == "dropless" or scopes.is_dropless()

    def compute(self, weights, x_GSD, mask_GS):
        """Returns the `Results` of the groups."""
        record, plan, first_GS = self._route(weights, x_GSD, mask_GS)
        layer = self.layer
        kernels = (weights.kernel_in, weights.kernel_gate, weights.kernel_out)
        own_experts = experts.Experts(*kernels, layer.activation)
        dropout = None
        if weights.dropout_seed is not None:
            dropout = (layer.expert_dropout, weights.dropout_seed)
        if self.is_dropless:
            chosen_GSK = ops.where(mask_GS[..., None], record.experts, layer.num_experts)
            args = (own_experts, x_GSD, chosen_GSK, record.gates, self.parallelism, dropout)
            outputs_GSD = experts.over_rows(*args)
        else:
            args = (own_experts, x_GSD, plan, record.gates, self.parallelism, dropout)
            outputs_GSD = experts.over_slots(*args)
        if not self.training:
            return Results(outputs_GSD, None, None, None)
        mask_GS = ops.cast(mask_GS, "float32")
        balance_G = routing.balance_loss(record.probabilities, first_GS, mask_GS)
        z_G = routing.z_loss(record.logits, mask_GS)
        figures_GN = routing_figures.measure(record, mask_GS, (balance_G, z_G))
        return Results(outputs_GSD, balance_G, z_G, figures_GN)

    def route(self, weights, x_GSD, mask_GS):
        """Returns the `Routing` of the groups."""
        return self._route(weights, x_GSD, mask_GS)[0]

    def _route(self, weights, x_GSD, mask_GS):
        """Returns the `Routing`, the `Plan` of the slots if there are any, and first choices."""
        layer = self.layer
        logits_GSE, scores_GSE = self._scores(weights, x_GSD)
        p_GSE = ops.exp(ops.log_softmax(logits_GSE, axis=-1))
        reroutes = layer.overflow == "reroute" and not self.is_dropless
        tries = min(routing.REROUTE_STAGES, layer.num_experts) if reroutes else None
        choices_GSK = routing.select(scores_GSE, tries or layer.num_selected_experts)
        plan, experts_GSK = None, choices_GSK
        kept_GSK = mask_GS[..., None]
        if not self.is_dropless:
            plan, experts_GSK = self._plan(p_GSE, choices_GSK, mask_GS, reroutes)
            kept_GSK = ops.transpose(plan.slots_GKS, (0, 2, 1)) >= 0
        gates_GSK = routing.gates(p_GSE, experts_GSK, layer.num_selected_experts > 1)
        kept_GSK = ops.broadcast_to(kept_GSK, ops.shape(experts_GSK))
        record = routing.Routing(logits_GSE, p_GSE, experts_GSK, gates_GSK, kept_GSK)
        return record, plan, choices_GSK[..., 0]

    def _scores(self, weights, x_GSD):
        layer = self.layer
        exploration = layer.exploration if self.training else "argmax"
        size = layer.jitter if exploration == "jitter" else layer.input_dropout
        groups_G = self.parallelism.group_indices(ops.shape(x_GSD)[0])
        return router.scores(
            x_GSD, weights.router, exploration, size, weights.router_seed, groups_G
        )

    def _plan(self, p_GSE, choices_GSK, mask_GS, reroutes):
        """Returns the `Plan`, and the expert that each entry tried last."""
        layer = self.layer
        factor = layer.capacity_factor if self.training else layer.eval_capacity_factor
        capacity = layer.expert_capacity or routing.expert_capacity(
            ops.shape(mask_GS)[1], factor, layer.num_experts, layer.min_capacity
        )
        likelihood_GSK = None
        if layer.priority == "probability":
            likelihood_GSK = routing.gates(p_GSE, choices_GSK, renormalise=False)
        args = (choices_GSK, mask_GS, layer.num_experts, capacity, likelihood_GSK)
        if reroutes:
            return dispatch.plan_with_rerouting(*args)
        return dispatch.plan(*args), choices_GSK
