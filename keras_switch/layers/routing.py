"""Which expert takes which token: the router's mathematics, in float32.

Dimension key: B batch, L length, G groups, S tokens of a group, D model width,
F hidden width of an expert, E experts, C capacity, K selected experts of a token,
H heads. A tensor's name ends in its dimensions: `logits_GSE`.
"""

import fractions
import typing

from keras import ops

from keras_switch import backend


class Routing(typing.NamedTuple):
    """Where the router sends each token.

    `K` is `num_selected_experts` with token choice, and `num_experts` with expert choice.

    Attributes:
        logits: float32, `(..., num_experts)`. The router's logits.
        probabilities: float32, like `logits`. Their softmax.
        experts: int32, `(..., K)`. The chosen experts, best first; with expert choice all of
            them, in their order.
        gates: float32, like `experts`. What each expert's output is multiplied by.
        kept: bool, like `experts`. False where the expert did not take the token: it had no
            room, or the token is padding.
    """

    logits: typing.Any
    probabilities: typing.Any
    experts: typing.Any
    gates: typing.Any
    kept: typing.Any


def expert_capacity(group_size, factor, num_experts, min_capacity):
    """Slots of one expert: `max(min(S, int(S * factor / E)), min_capacity)`.

    It is computed in integers, so that 32 bits are enough: the factor is taken as the fraction of
    a denominator up to 10,000 that is nearest to it.

    Args:
        group_size: int, or a dimension that is known only at run time: an int32 scalar tensor,
            or JAX's symbolic dimension.
        factor: float. The capacity factor.
        num_experts: int.
        min_capacity: int.

    Returns:
        What `group_size` is.
    """
    factor = min(fractions.Fraction(float(factor)).limit_denominator(10_000), num_experts)
    p, q = factor.numerator, factor.denominator
    if p < 128:  # So `S * p` has at most 31 bits up to `S = 2 ** 24`.
        share = group_size * p // (q * num_experts)
    else:
        rest = group_size % (q * num_experts)
        share = group_size // (q * num_experts) * p
        share = share + (rest // q * p + rest % q * p // q) // num_experts
    return backend.larger(backend.smaller(group_size, share), min_capacity)


def one_hot(experts, num_experts, dtype):
    """`(..., K, E)` from `(..., K)`; an index of `E` gives zeros."""
    experts = ops.expand_dims(experts, -1)
    return ops.cast(experts == ops.arange(num_experts, dtype="int32"), dtype)


def select(scores_GSE, num_selected):
    """int32 `(G, S, K)`: the experts with the largest scores, best first."""
    if num_selected == 1:
        return ops.expand_dims(backend.first_largest(scores_GSE), -1)
    return ops.cast(ops.top_k(scores_GSE, num_selected)[1], "int32")


def gates(probabilities_GSE, experts_GSK, renormalise):
    """float32 `(G, S, K)`: each chosen expert's probability.

    Args:
        probabilities_GSE: float32 tensor.
        experts_GSK: int32 tensor.
        renormalise: bool. Whether a token's gates are scaled to a sum of one, as in
            GShard. The Switch layer's single gate is not: that would cut the
            router's gradient.
    """
    num_experts = probabilities_GSE.shape[-1]
    chosen_GSKE = one_hot(experts_GSK, num_experts, probabilities_GSE.dtype)
    gates_GSK = ops.sum(chosen_GSKE * ops.expand_dims(probabilities_GSE, 2), axis=-1)
    if renormalise:
        gates_GSK = gates_GSK / (ops.sum(gates_GSK, axis=-1, keepdims=True) + 1e-9)
    return gates_GSK


def masked_mean(x_GS, mask_GS):
    """Mean over a group's real tokens; an empty group has 0.

    Args:
        x_GS: float32 tensor `(G, S)` or `(G, S, E)`.
        mask_GS: float32 tensor `(G, S)` of ones and zeros.

    Returns:
        Tensor `(G,)` or `(G, E)`.
    """
    real_G = ops.maximum(ops.sum(mask_GS, axis=1), 1.0)
    weights_GS = mask_GS / real_G[:, None]
    if len(x_GS.shape) == 3:
        weights_GS = weights_GS[..., None]
    return ops.sum(x_GS * weights_GS, axis=1)


def balance_loss(probabilities_GSE, experts_GS, mask_GS):
    """`N * sum_i f_i * P_i` over each group's real tokens.

    `f_i` is the fraction of tokens whose first choice is expert i, before capacity,
    and `P_i` the mean probability of expert i. Uniform routing gives 1. The gradient
    flows through `P` only.

    Args:
        probabilities_GSE: float32 tensor.
        experts_GS: int32 tensor. First choices.
        mask_GS: float32 tensor of ones and zeros.

    Returns:
        float32 tensor `(G,)`.

    Reference:
    - [Fedus et al., 2021](https://arxiv.org/abs/2101.03961), eq. 4 to 6
    """
    num_experts = probabilities_GSE.shape[-1]
    f_GE = masked_mean(one_hot(experts_GS, num_experts, mask_GS.dtype), mask_GS)
    P_GE = masked_mean(probabilities_GSE, mask_GS)
    return num_experts * ops.sum(f_GE * P_GE, axis=-1)


def balance_shares(probabilities_GSE, experts_GS, mask_GS, sum_over_cores):
    """Each group's part of the `balance_loss` of one group that has all tokens of all cores.

    `f` is that of all tokens and has no gradient, so nothing else has to be known of other cores.

    Args:
        probabilities_GSE: float32 tensor.
        experts_GS: int32 tensor. First choices.
        mask_GS: float32 tensor of ones and zeros.
        sum_over_cores: Callable. Sums a tensor over all cores.

    Returns:
        float32 tensor `(G,)`, whose sum over the groups of all cores is the loss.

    Reference:
    - [Qiu et al., 2025](https://arxiv.org/abs/2501.11873)
    """
    num_experts = probabilities_GSE.shape[-1]
    chosen_GSE = one_hot(experts_GS, num_experts, mask_GS.dtype) * mask_GS[..., None]
    counts_E = ops.sum(chosen_GSE, axis=(0, 1))
    totals = ops.concatenate([counts_E, ops.reshape(ops.sum(mask_GS), (1,))])
    totals = sum_over_cores(ops.stop_gradient(totals))
    tokens = ops.maximum(totals[-1], 1.0)
    P_GE = ops.sum(probabilities_GSE * mask_GS[..., None], axis=1) / tokens
    return num_experts * ops.sum(totals[:-1] / tokens * P_GE, axis=-1)


def z_loss(logits_GSE, mask_GS):
    """Mean squared log-partition of the router over each group's real tokens: `(G,)`.

    Reference:
    - [Zoph et al., 2022](https://arxiv.org/abs/2202.08906), eq. 5
    """
    squares_GS = ops.square(ops.logsumexp(logits_GSE, axis=-1))
    return masked_mean(squares_GS, mask_GS)


def entropy(logits_GSE, mask_GS):
    """Mean entropy of the router over each group's real tokens, in nats: `(G,)`."""
    log_p_GSE = ops.log_softmax(logits_GSE, axis=-1)
    entropy_GS = -ops.sum(ops.exp(log_p_GSE) * log_p_GSE, axis=-1)
    return masked_mean(entropy_GS, mask_GS)
