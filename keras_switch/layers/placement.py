"""Where tokens are placed, and so which are dropped: integer maps between tokens and slots.

An *entry* is one choice of one token: entry `k * S + s` of a group is choice `k` of
token `s`, so every first choice comes before any second one. A *slot* is one row of
an expert's buffer: slot `e * C + c`. Entries and slots are inverse maps.

A routing algorithm returns a `Placement`. Where each token chooses its experts, `plan` makes
its `Plan`; where experts choose their tokens, `plan_of_experts` does.
"""

import typing

from keras import ops

from keras_switch import backend


class Plan(typing.NamedTuple):
    """Inverse integer maps between entries and slots, -1 for none.

    Attributes:
        slots_GKS: The slot of each entry.
        entries_GN: The entry of each slot, `N` slots.
        counts_GE: Slots that each expert fills.
        order_GN: `None` where each token has few entries. Otherwise the slots, those of one
            token next to each other and empty ones last; entry `k` of a token is then that
            of expert `k`.
    """

    slots_GKS: typing.Any
    entries_GN: typing.Any
    counts_GE: typing.Any
    order_GN: typing.Any = None


class Placement(typing.NamedTuple):
    """What a routing algorithm decides.

    Attributes:
        experts_GSK: int32 tensor. The experts of each token, `num_experts` for none.
        gates_GSK: float32 tensor. What each expert's output is multiplied by.
        plan: `Plan` of the slots, or `None` where every token has all its experts,
            however many tokens an expert then has.
    """

    experts_GSK: typing.Any
    gates_GSK: typing.Any
    plan: typing.Any


def take(x_GN, indices_GM):
    """Batched gather of integers."""
    return backend.gather_rows(ops.expand_dims(x_GN, -1), indices_GM)[..., 0]


def sort_by_expert(experts_GN, num_experts, gates_GKS=None):
    """Sorts entries by expert, earlier (or likelier) entries first.

    Args:
        experts_GN: int32 tensor. The expert of each entry, `num_experts` for none.
        num_experts: int.
        gates_GKS: Optional float tensor. Within one choice, entries with larger gates
            come first. Without it, earlier ones.

    Returns:
        `order_GN`, the entries in sorted order; `ranks_GN`, its inverse;
        `counts_GE`, entries of each expert; and `starts_GE`, the rank of its first.
    """
    num_entries = ops.shape(experts_GN)[1]
    if isinstance(num_entries, int) and (num_experts + 1) * num_entries > 2**31:
        raise ValueError(
            "A group's choices times the experts must stay below 2 ** 31. Make the groups smaller "
            f"by `group_size`. Received: {num_entries} choices, num_experts={num_experts}"
        )
    index_N = ops.arange(num_entries, dtype="int32")
    # Keys are unique, so no sort has to be stable.
    if gates_GKS is None:
        order_GN = ops.sort(experts_GN * num_entries + index_N, axis=-1) % num_entries
    else:
        shape = ops.shape(gates_GKS)
        first_N = ops.reshape(ops.arange(shape[1], dtype="int32") * shape[2], (1, -1, 1))
        likeliest_GKS = ops.cast(ops.argsort(-gates_GKS, axis=-1), "int32") + first_N
        likeliest_GN = ops.reshape(likeliest_GKS, ops.shape(experts_GN))
        keys_GN = take(experts_GN, likeliest_GN) * num_entries + index_N
        order_GN = take(likeliest_GN, ops.sort(keys_GN, axis=-1) % num_entries)
    ranks_GN = ops.cast(ops.argsort(order_GN, axis=-1), "int32")
    is_expert_GNE = ops.expand_dims(experts_GN, -1) == ops.arange(num_experts, dtype="int32")
    counts_GE = ops.sum(ops.cast(is_expert_GNE, "int32"), axis=1)
    starts_GE = ops.cumsum(counts_GE, axis=-1) - counts_GE
    return order_GN, ranks_GN, counts_GE, starts_GE


def positions(experts_GN, num_experts, gates_GKS=None):
    """The place of each entry in its expert's queue, and the entries in sorted order."""
    order_GN, ranks_GN, counts_GE, starts_GE = sort_by_expert(experts_GN, num_experts, gates_GKS)
    queue_GN = ops.minimum(experts_GN, num_experts - 1)
    return ranks_GN - take(starts_GE, queue_GN), order_GN, counts_GE, starts_GE


def _entries(order_GN, starts_GE, counts_GE, capacity):
    """The entry of each of `E * C` slots, given entries sorted by expert."""
    slot_C = ops.arange(capacity, dtype="int32")
    ranks_GEC = starts_GE[..., None] + slot_C
    filled_GEC = slot_C < counts_GE[..., None]
    shape = ops.shape(starts_GE)
    ranks_GN = ops.reshape(ops.where(filled_GEC, ranks_GEC, 0), (shape[0], -1))
    filled_GN = ops.reshape(filled_GEC, (shape[0], -1))
    return ops.where(filled_GN, take(order_GN, ranks_GN), -1)


def plan(experts_GSK, mask_GS, num_experts, capacity, gates_GSK=None):
    """Gives each token slots of its experts while they have room.

    Args:
        experts_GSK: int32 tensor. The chosen experts of each token.
        mask_GS: bool tensor. False tokens take no slot.
        num_experts: int.
        capacity: int or int32 scalar tensor. Slots of each expert. `None` for no limit.
        gates_GSK: Optional float tensor. When given, likelier tokens get the slots,
            otherwise earlier ones.

    Returns:
        A `Plan`, or `None` where there is no capacity.
    """
    if capacity is None:
        return None
    experts_GSK = ops.where(ops.expand_dims(mask_GS, -1), experts_GSK, num_experts)
    experts_GKS = ops.transpose(experts_GSK, (0, 2, 1))
    shape = ops.shape(experts_GKS)
    experts_GN = ops.reshape(experts_GKS, (shape[0], -1))
    gates_GKS = None if gates_GSK is None else ops.transpose(gates_GSK, (0, 2, 1))
    position_GN, order_GN, counts_GE, starts_GE = positions(experts_GN, num_experts, gates_GKS)
    kept_GN = (position_GN < capacity) & (experts_GN < num_experts)
    slots_GN = ops.where(kept_GN, experts_GN * capacity + position_GN, -1)
    counts_GE = ops.minimum(counts_GE, capacity)
    entries_GN = _entries(order_GN, starts_GE, counts_GE, capacity)
    return Plan(ops.reshape(slots_GN, shape), entries_GN, counts_GE)


def plan_with_rerouting(choices_GSK, mask_GS, num_experts, capacity, gates_GSK=None):
    """No-Token-Left-Behind: who finds no room tries its next choice.

    Args:
        choices_GSK: int32 tensor. The experts that each token tries, in this order.
        mask_GS: bool tensor. False tokens take no slot.
        num_experts: int.
        capacity: int or int32 scalar tensor. Slots of each expert.
        gates_GSK: Optional float tensor, as in `plan`.

    Returns:
        A `Plan` with one entry a token, and the expert of each token, `(G, S, 1)`.

    Reference:
    - [Fedus et al., 2021](https://arxiv.org/abs/2101.03961), appendix B
    """
    experts_GS = choices_GSK[..., 0]
    slots_GS = ops.full_like(experts_GS, -1)
    filled_GE = ops.zeros((ops.shape(experts_GS)[0], num_experts), "int32")
    for stage in range(choices_GSK.shape[-1]):
        waiting_GS = mask_GS & (slots_GS < 0)
        tried_GS = ops.where(waiting_GS, choices_GSK[..., stage], num_experts)
        gates_G1S = None if gates_GSK is None else ops.expand_dims(gates_GSK[..., stage], 1)
        place_GS, _, counts_GE, _ = positions(tried_GS, num_experts, gates_G1S)
        place_GS = place_GS + take(filled_GE, ops.minimum(tried_GS, num_experts - 1))
        placed_GS = waiting_GS & (place_GS < capacity)
        slots_GS = ops.where(placed_GS, tried_GS * capacity + place_GS, slots_GS)
        experts_GS = ops.where(placed_GS, tried_GS, experts_GS)
        filled_GE = ops.minimum(filled_GE + counts_GE, capacity)
    last = num_experts * capacity + ops.arange(ops.shape(slots_GS)[1], dtype="int32")
    order_GS = ops.cast(ops.argsort(ops.where(slots_GS < 0, last, slots_GS), axis=-1), "int32")
    starts_GE = ops.cumsum(filled_GE, axis=-1) - filled_GE
    entries_GN = _entries(order_GS, starts_GE, filled_GE, capacity)
    return Plan(slots_GS[:, None], entries_GN, filled_GE), ops.expand_dims(experts_GS, -1)


def plan_of_experts(taken_GSE, capacity):
    """Gives each expert the tokens that it takes, earlier ones first.

    A token may have as many entries as there are experts, though few on average: `slots_GKS`
    has `K = E`, as many integers as there are router probabilities. Gathering a row for each
    of them would cost `E` times the tokens. So the plan also has the slots in the order of
    their tokens, by which `dispatch` sums over the `N` slots that exist.

    Args:
        taken_GSE: bool tensor. The tokens that each expert takes. No padding.
        capacity: int or int32 scalar tensor. Slots of each expert, of which there are no more
            than tokens; tokens past them are dropped.

    Returns:
        A `Plan` whose entry `k` of a token is that of expert `k`.
    """
    taken_GES = ops.transpose(taken_GSE, (0, 2, 1))
    num_groups, num_experts, size = ops.shape(taken_GES)
    capacity = backend.smaller(capacity, size)
    place_GES = ops.cumsum(ops.cast(taken_GES, "int32"), axis=-1) - 1
    kept_GES = taken_GES & (place_GES < capacity)
    first_E = ops.arange(num_experts, dtype="int32") * capacity
    slots_GES = ops.where(kept_GES, first_E[:, None] + place_GES, -1)
    token_S = ops.arange(size, dtype="int32")
    tokens_GEC = -ops.top_k(ops.where(kept_GES, -token_S, -size), capacity)[0]
    entry_E = ops.arange(num_experts, dtype="int32") * size
    entries_GEC = ops.where(tokens_GEC < size, entry_E[:, None] + tokens_GEC, -1)
    order_GN = ops.argsort(ops.reshape(tokens_GEC, (num_groups, -1)), axis=-1)
    counts_GE = ops.sum(ops.cast(kept_GES, "int32"), axis=-1)
    entries_GN = ops.reshape(entries_GEC, (num_groups, -1))
    return Plan(slots_GES, entries_GN, counts_GE, ops.cast(order_GN, "int32"))


def plan_dropless(experts_GSK, num_experts):
    """Sorts the entries of all groups by expert; every entry of an expert has its place.

    Args:
        experts_GSK: int32 tensor. The chosen experts of each token. An entry of none of
            the `num_experts` comes last, after every expert's.
        num_experts: int.

    Returns:
        A `Plan` of one group that holds the tokens of all of them.
    """
    is_expert_GSK = (experts_GSK >= 0) & (experts_GSK < num_experts)
    experts_GSK = ops.where(is_expert_GSK, experts_GSK, num_experts)
    num_selected = experts_GSK.shape[-1]
    experts_KT = ops.transpose(ops.reshape(experts_GSK, (-1, num_selected)))
    order_1N, ranks_1N, counts_1E, _ = sort_by_expert(ops.reshape(experts_KT, (1, -1)), num_experts)
    return Plan(ops.reshape(ranks_1N, (1, num_selected, -1)), order_1N, counts_1E)
