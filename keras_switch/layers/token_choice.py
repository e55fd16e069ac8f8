"""Token choice: each token goes to the experts that it likes best, while they have room."""

from keras_switch.layers import placement
from keras_switch.layers import routing

REROUTE_STAGES = 4


def token_choice(
    scores_GSE,
    probabilities_GSE,
    mask_GS,
    capacity,
    *,
    num_selected_experts,
    overflow,
    priority,
):
    """The Switch Transformer's algorithm, and GShard's for two selected experts.

    Args:
        scores_GSE: float32 tensor.
        probabilities_GSE: float32 tensor.
        mask_GS: bool tensor.
        capacity: int, int32 scalar tensor or `None`.
        num_selected_experts: int. As in `SwitchDense`, like the rest.
        overflow: string.
        priority: string.

    Returns:
        `placement.Placement`.

    Reference:
    - [Fedus et al., 2021](https://arxiv.org/abs/2101.03961), section 2 and appendix B
    """
    num_experts = scores_GSE.shape[-1]
    reroutes = overflow == "reroute" and capacity is not None
    tries = min(REROUTE_STAGES, num_experts) if reroutes else num_selected_experts
    experts_GSK = routing.select(scores_GSE, tries)
    likelihood_GSK = None
    if priority == "probability" and capacity is not None:
        likelihood_GSK = routing.gates(probabilities_GSE, experts_GSK, renormalise=False)
    args = (experts_GSK, mask_GS, num_experts, capacity, likelihood_GSK)
    if reroutes:
        plan, experts_GSK = placement.plan_with_rerouting(*args)
    else:
        plan = placement.plan(*args)
    gates_GSK = routing.gates(probabilities_GSE, experts_GSK, num_selected_experts > 1)
    return placement.Placement(experts_GSK, gates_GSK, plan)


def check(num_selected_experts, overflow, priority):
    """Checks the options that `SwitchDense` has for `token_choice`, together."""
    if overflow == "reroute" and num_selected_experts > 1:
        raise ValueError(
            '`overflow="reroute"` needs `num_selected_experts=1`. Received: '
            f"num_selected_experts={num_selected_experts}"
        )
