"""Expert choice: each expert takes the tokens that like it best."""

import math

from keras import ops

from keras_switch import backend
from keras_switch.layers import placement


def expert_choice(scores_GSE, probabilities_GSE, mask_GS, capacity):
    """Each expert takes its `capacity` likeliest real tokens of a group.

    Experts are evenly loaded, so there is no balance loss. A token may have several experts or
    none; its gates are their probabilities. Among equals earlier tokens win.

    Args:
        scores_GSE: float32 tensor. Tokens are compared by the softmax of these over experts.
        probabilities_GSE: float32 tensor.
        mask_GS: bool tensor.
        capacity: int or int32 scalar tensor.

    Returns:
        `placement.Placement` with `K = E`: entry `k` of a token is that of expert `k`.

    Reference:
    - [Zhou et al., 2022](https://arxiv.org/abs/2202.09368), section 3.2
    """
    num_groups, size, num_experts = ops.shape(scores_GSE)
    capacity = backend.smaller(capacity, size)
    likelihood_GSE = ops.log_softmax(ops.stop_gradient(scores_GSE), axis=-1)
    likelihood_GSE = ops.where(mask_GS[..., None], likelihood_GSE, -math.inf)
    taken_GSE = _is_among_largest(likelihood_GSE, capacity) & mask_GS[..., None]
    plan = placement.plan_of_experts(taken_GSE, capacity)
    experts_E = ops.arange(num_experts, dtype="int32")
    experts_GSE = ops.broadcast_to(experts_E, (num_groups, size, num_experts))
    return placement.Placement(experts_GSE, probabilities_GSE, plan)


def _is_among_largest(x_GSE, count):
    """Whether a value is among the `count` largest of its column, the first of equals."""
    x_GES = ops.transpose(x_GSE, (0, 2, 1))
    largest_GEC, at_GEC = ops.top_k(x_GES, count)
    # The first of equals come first.
    least_GE1, last_GE1 = largest_GEC[..., -1, None], ops.cast(at_GEC[..., -1, None], "int32")
    index_S = ops.arange(ops.shape(x_GES)[-1], dtype="int32")
    is_largest_GES = (x_GES > least_GE1) | ((x_GES == least_GE1) & (index_S <= last_GE1))
    return ops.transpose(is_largest_GES, (0, 2, 1))
