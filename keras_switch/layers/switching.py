"""What a `SwitchDense` computes on the groups that one core holds."""

import typing

from keras import ops

from keras_switch import backend
from keras_switch.layers import dispatch
from keras_switch.layers import noise
from keras_switch.layers import placement
from keras_switch.layers import router
from keras_switch.layers import routing
from keras_switch.layers import routing_metrics
from keras_switch.layers import scopes
from keras_switch.layers import switch_checks
from keras_switch.layers.experts import Experts


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
    """A layer's outputs, and in training the losses and routing metrics of each group.

    Attributes:
        outputs: Tensor `(G, S, D)`.
        balance: float32 tensor `(G,)`. The balance loss, or the group's part of it where
            `balance_over="mesh"`.
        z: float32 tensor `(G,)`. The z-loss.
        metrics: float32 tensor `(G, 5 + E)`, or `None`; see `routing_metrics.measure`.
    """

    outputs: typing.Any
    balance: typing.Any
    z: typing.Any
    metrics: typing.Any


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

    def compute(self, weights, x_GSD, mask_GS):
        """Returns the `Results` of the groups."""
        record, plan, scores_GSE = self._route(weights, x_GSD, mask_GS)
        layer = self.layer
        kernels = (weights.kernel_in, weights.kernel_gate, weights.kernel_out)
        own_experts = Experts(*kernels, layer.activation)
        dropout = None
        if weights.dropout_seed is not None:
            dropout = (layer.expert_dropout, weights.dropout_seed)
        if plan is None:
            chosen_GSK = ops.where(ops.expand_dims(mask_GS, -1), record.experts, layer.num_experts)
            args = (own_experts, x_GSD, chosen_GSK, record.gates, self.parallelism, dropout)
            outputs_GSD = over_rows(*args)
        else:
            args = (own_experts, x_GSD, plan, record.gates, self.parallelism, dropout)
            outputs_GSD = over_slots(*args)
        outputs_GSD = ops.cast(outputs_GSD, layer.outputs_dtype)
        if not self.training:
            return Results(outputs_GSD, None, None, None)
        mask_GS = ops.cast(mask_GS, record.logits.dtype)
        losses = self._losses(record, scores_GSE, mask_GS, layer.balance_over)
        metrics_GN = None
        if layer.routing_metrics:
            own = losses
            if layer.balance_over == "mesh":
                own = self._losses(record, scores_GSE, mask_GS, "group")
            metrics_GN = routing_metrics.measure(record, plan, mask_GS, own)
        return Results(outputs_GSD, *losses, metrics_GN)

    def losses(self, weights, x_GSD, mask_GS):
        """Returns the balance loss and the z-loss of each group, computing no expert."""
        record, _, scores_GSE = self._route(weights, x_GSD, mask_GS)
        mask_GS = ops.cast(mask_GS, record.logits.dtype)
        return self._losses(record, scores_GSE, mask_GS, self.layer.balance_over)

    def _losses(self, record, scores_GSE, mask_GS, balance_over):
        z_G = routing.z_loss(record.logits, mask_GS)
        if not self.layer.algorithm.balances:
            return ops.zeros_like(z_G), z_G
        first_GS = routing.select(scores_GSE, 1)[..., 0]
        args = (record.probabilities, first_GS, mask_GS)
        if balance_over == "mesh":
            return routing.balance_shares(*args, self.parallelism.sum_over_cores), z_G
        return routing.balance_loss(*args), z_G

    def route(self, weights, x_GSD, mask_GS):
        """Returns the `Routing` of the groups."""
        return self._route(weights, x_GSD, mask_GS)[0]

    def _route(self, weights, x_GSD, mask_GS):
        """Returns the `Routing`, the `Plan` of the slots if there are any, and the scores."""
        layer = self.layer
        logits_GSE, scores_GSE = self._scores(weights, x_GSD)
        p_GSE = ops.exp(ops.log_softmax(logits_GSE, axis=-1))
        options = {name: getattr(layer, name) for name in layer.algorithm.options}
        capacity = self._capacity(ops.shape(mask_GS)[1])
        placed = layer.algorithm.place(scores_GSE, p_GSE, mask_GS, capacity, **options)
        switch_checks.check_placement(layer, placed)
        experts_GSK, gates_GSK, plan = placed
        if plan is None:
            kept_GSK = ops.expand_dims(mask_GS, -1) & (experts_GSK < layer.num_experts)
        else:
            kept_GSK = ops.transpose(plan.slots_GKS, (0, 2, 1)) >= 0
        record = routing.Routing(logits_GSE, p_GSE, experts_GSK, gates_GSK, kept_GSK)
        return record, plan, scores_GSE

    def _scores(self, weights, x_GSD):
        layer = self.layer
        exploration = layer.exploration if self.training else "argmax"
        size = layer.jitter if exploration == "jitter" else layer.input_dropout
        groups_G = self.parallelism.group_indices(ops.shape(x_GSD)[0])
        return router.scores(
            x_GSD, weights.router, exploration, size, weights.router_seed, groups_G
        )

    def _capacity(self, group_size):
        """Slots of an expert, or `None` where there is no limit."""
        layer, is_limit = self.layer, self.layer.algorithm.is_token_wise
        if is_limit and (layer.overflow == "dropless" or scopes.is_dropless()):
            return None
        is_training = self.training or not is_limit
        factor = layer.capacity_factor if is_training else layer.eval_capacity_factor
        if factor is None and not layer.expert_capacity:
            return None
        return layer.expert_capacity or routing.expert_capacity(
            group_size, factor, layer.num_experts, layer.min_capacity
        )


def weighted(layer, balance_G, z_G):
    """The loss that a layer adds in training, or `None`.

    Args:
        layer: `SwitchDense`.
        balance_G: float32 tensor, that of `Results`.
        z_G: float32 tensor, likewise.
    """
    balance_loss_weight = layer.balance_loss_weight if layer.algorithm.balances else 0.0
    if not balance_loss_weight and not layer.z_loss_weight:
        return None
    is_whole = layer.balance_over == "mesh"
    balance = (layer.parallelism.sum_of_groups if is_whole else ops.mean)(balance_G)
    return balance_loss_weight * balance + layer.z_loss_weight * ops.mean(z_G)


def over_slots(experts, x_GSD, plan, gates_GSK, parallelism, dropout):
    """Runs every expert on its slots.

    Args:
        experts: `Experts`.
        x_GSD: Tensor. The tokens.
        plan: `placement.Plan` of the groups.
        gates_GSK: float32 tensor. What multiplies each expert's output.
        parallelism: `Parallelism`.
        dropout: Pair of a rate and a seed of the hidden dropout, or `None`.

    Returns:
        Tensor `(G, S, D)`; zeros where a token has no slot.
    """
    num_experts = plan.counts_GE.shape[-1]
    x_GND = dispatch.dispatch(x_GSD, plan)
    num_groups, num_slots, dim = ops.shape(x_GND)
    capacity = num_slots // num_experts
    x_GECD = ops.reshape(x_GND, (num_groups, num_experts, capacity, dim))
    x_EGCD = _swap_first_two(parallelism.to_experts(x_GECD))
    shape = ops.shape(x_EGCD)[:3]

    def drop(hidden_ENF):
        if dropout is None:
            return hidden_ENF
        hidden_EGCF = ops.reshape(hidden_ENF, (*shape, hidden_ENF.shape[-1]))
        expert, _, slot, _ = noise.indices(ops.shape(hidden_EGCF))
        expert = expert + parallelism.first("experts", shape[0])
        group_G = parallelism.gathered_indices(num_groups)
        position = (group_G[:, None, None], expert * capacity + slot, experts.columns(parallelism))
        return ops.reshape(noise.dropout(hidden_EGCF, *dropout, *position), ops.shape(hidden_ENF))

    x_END = ops.reshape(x_EGCD, (shape[0], -1, dim))
    y_END = experts.compute(x_END, ops.matmul, drop)
    y_EGCD = ops.reshape(y_END, (*shape, y_END.shape[-1]))
    y_GECD = parallelism.to_tokens(_swap_first_two(y_EGCD))
    y_GND = ops.reshape(y_GECD, (num_groups, num_slots, y_END.shape[-1]))
    return dispatch.combine(y_GND, plan, gates_GSK)


def over_rows(experts, x_GSD, experts_GSK, gates_GSK, parallelism, dropout):
    """Runs every expert on its own rows, however many they are.

    Where experts are split, each core takes the tokens of all cores that share them, computes
    its own experts' rows, and the outputs are summed.

    Args:
        experts: `Experts`.
        x_GSD: Tensor. The tokens.
        experts_GSK: int32 tensor. The experts of each token, the number of all experts for
            none.
        gates_GSK: float32 tensor. What multiplies each expert's output.
        parallelism: `Parallelism`.
        dropout: Pair of a rate and a seed of the hidden dropout, or `None`.

    Returns:
        Tensor `(G, S, D)`; zeros for tokens without an expert.
    """
    local_groups = ops.shape(x_GSD)[0]
    x_GSD, experts_GSK, gates_GSK = (parallelism.gather(x) for x in (x_GSD, experts_GSK, gates_GSK))
    num_groups, size, dim = ops.shape(x_GSD)
    num_experts = experts.kernel_in.shape[0]
    plan = placement.plan_dropless(
        experts_GSK - parallelism.first("experts", num_experts), num_experts
    )
    x_ND = ops.reshape(dispatch.dispatch(ops.reshape(x_GSD, (1, -1, dim)), plan), (-1, dim))

    def matmul(x, kernels):
        return backend.grouped_matmul(x, kernels, plan.counts_GE[0])

    def drop(hidden_NF):
        if dropout is None:
            return hidden_NF
        num_tokens = num_groups * size
        entry_N = plan.entries_GN[0]
        row_N = entry_N // num_tokens * size + entry_N % size
        group_N = ops.take(
            parallelism.gathered_indices(local_groups), entry_N % num_tokens // size, axis=0
        )
        position = (group_N[:, None], row_N[:, None], experts.columns(parallelism))
        return noise.dropout(hidden_NF, *dropout, *position)

    y_ND = experts.compute(x_ND, matmul, drop)
    gates_1TK = ops.reshape(gates_GSK, (1, -1, gates_GSK.shape[-1]))
    y_1TD = dispatch.combine(y_ND[None], plan, gates_1TK)
    y_GSD = ops.reshape(y_1TD, (num_groups, size, y_ND.shape[-1]))
    return parallelism.scatter_sum(y_GSD)


def _swap_first_two(x):
    """Transposes the first two axes; a reshape where one of them has size one."""
    shape = ops.shape(x)
    if x.shape[0] == 1 or x.shape[1] == 1:
        return ops.reshape(x, (shape[1], shape[0], *shape[2:]))
    return ops.transpose(x, (1, 0, 2, 3))
