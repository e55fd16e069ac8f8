"""The experts' arithmetic: over slots of a fixed capacity, or over rows however many."""

import typing

from keras import ops

from keras_switch import backend
from keras_switch.layers import dispatch
from keras_switch.layers import noise


class Experts(typing.NamedTuple):
    """Kernels and activation of the experts that a core holds.

    Attributes:
        kernel_in: Tensor `(E, D, F)`.
        kernel_gate: Tensor `(E, D, F)`, or `None` where the experts are not gated.
        kernel_out: Tensor `(E, F, D)`.
        activation: Callable.
    """

    kernel_in: typing.Any
    kernel_gate: typing.Any
    kernel_out: typing.Any
    activation: typing.Callable

    def compute(self, x, matmul, drop):
        """`activation(x W_in) W_out` of each expert, gated if so asked.

        Args:
            x: Tensor that `matmul` understands.
            matmul: Callable of a tensor and kernels.
            drop: Callable. Dropout of the hidden activation.
        """
        hidden = matmul(x, self.kernel_in)
        if self.kernel_gate is None:
            hidden = self.activation(hidden)
        else:
            hidden = self.activation(matmul(x, self.kernel_gate)) * hidden
        return matmul(drop(hidden), self.kernel_out)

    def columns(self, parallelism):
        """Indices, over all cores, of the hidden units: `(F,)`."""
        size = self.kernel_in.shape[-1]
        return ops.arange(size, dtype="int32") + parallelism.first("expert_hidden", size)


def over_slots(experts, x_GSD, plan, gates_GSK, parallelism, dropout):
    """Runs every expert on its slots.

    Args:
        experts: `Experts`.
        x_GSD: Tensor. The tokens.
        plan: `dispatch.Plan` of the groups.
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
    plan = dispatch.plan_dropless(
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
