"""From tokens to the experts' slots and back by a `placement.Plan`: gathers only.

Entries and slots are inverse maps, so the way to the slots and the way back are each other's
transposes: the gradient of each is the other one, and nothing is ever scattered.
"""

import functools

from keras import ops

from keras_switch import backend
from keras_switch.layers import placement


def _rows(x_GND, indices_GM):
    """`x[g, indices[g, m]]`, zeros where the index is -1."""
    rows_GMD = backend.gather_rows(x_GND, ops.maximum(indices_GM, 0))
    found_GM1 = ops.expand_dims(indices_GM, -1) >= 0
    return ops.where(found_GM1, rows_GMD, ops.zeros((), rows_GMD.dtype))


def _linear(forward, backward, x, *maps):
    """`forward(x, *maps)`, whose gradient is `backward(upstream, *maps)`."""

    # The maps are arguments, because JAX traces what it maps over devices on its own.
    @ops.custom_gradient
    def function(x, *maps):
        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            return backward(upstream, *maps), *(None for _ in maps)

        return forward(x, *maps), gradient

    return function(x, *maps)


def _gather(x_GND, indices_GM, inverse_GKN):
    """`_rows`, whose gradient gathers by the inverse map and sums over K."""

    def forward(x_GND, indices_GM, inverse_GKN):
        return _rows(x_GND, indices_GM)

    def backward(upstream_GMD, indices_GM, inverse_GKN):
        copies = [_rows(upstream_GMD, inverse) for inverse in ops.unstack(inverse_GKN, axis=1)]
        return functools.reduce(ops.add, copies)

    return _linear(forward, backward, x_GND, indices_GM, inverse_GKN)


def _tokens(plan):
    """The token of each slot, -1 for none."""
    size = ops.shape(plan.slots_GKS)[2]
    return ops.where(plan.entries_GN >= 0, plan.entries_GN % size, -1)


def _firsts(plan):
    """The place in `plan.order_GN` of each token's first slot, -1 for none."""
    counts_GS = ops.sum(ops.cast(plan.slots_GKS >= 0, "int32"), axis=1)
    return ops.where(counts_GS > 0, ops.cumsum(counts_GS, axis=-1) - counts_GS, -1)


def _spread(x_GSD, tokens_GN, order_GN, firsts_GS):
    return _rows(x_GSD, tokens_GN)


def _sums(most, x_GND, tokens_GN, order_GN, firsts_GS):
    """Sums the slots of each token, which has `most` at most: `(G, S, D)`.

    In the order of their tokens, each slot adds the one 1, 2, 4, ... places on, if that is of
    the same token. A token's first slot then holds its sum: `log2(most)` passes over the slots.
    """
    x_GND = backend.gather_rows(x_GND, order_GN)
    tokens_GN = placement.take(tokens_GN, order_GN)
    distance = 1
    while distance < most:
        is_same_GN = tokens_GN[:, distance:] == tokens_GN[:, :-distance]
        others_GND = ops.where(
            is_same_GN[..., None], x_GND[:, distance:], ops.zeros((), x_GND.dtype)
        )
        x_GND = x_GND + ops.pad(others_GND, ((0, 0), (0, distance), (0, 0)))
        distance *= 2
    return _rows(x_GND, firsts_GS)


def dispatch(x_GSD, plan):
    """Fills the slots: `(G, S, D)` tokens give `(G, N, D)`.

    An empty slot holds zeros. A token of another expert could overflow there, and though nobody
    reads what becomes of it, its gradient would be 0 times infinity.
    """
    tokens_GN = _tokens(plan)
    if plan.order_GN is not None:
        sums = functools.partial(_sums, plan.slots_GKS.shape[1])
        return _linear(_spread, sums, x_GSD, tokens_GN, plan.order_GN, _firsts(plan))
    return _gather(x_GSD, tokens_GN, plan.slots_GKS)


def combine(x_GND, plan, gates_GSK):
    """Sums each token's slots times its gates; a token without a slot gets zeros."""
    shape = ops.shape(plan.slots_GKS)
    slots_GM = ops.reshape(plan.slots_GKS, (shape[0], -1))
    gates_GSK = ops.cast(gates_GSK, x_GND.dtype)
    if plan.order_GN is not None:
        gates_GM = ops.reshape(ops.transpose(gates_GSK, (0, 2, 1)), (shape[0], -1))
        gates_GN1 = _gather(gates_GM[..., None], plan.entries_GN, slots_GM[:, None])
        sums = functools.partial(_sums, plan.slots_GKS.shape[1])
        maps = (_tokens(plan), plan.order_GN, _firsts(plan))
        return _linear(sums, _spread, x_GND * gates_GN1, *maps)
    rows_GMD = _gather(x_GND, slots_GM, plan.entries_GN[:, None])
    if plan.slots_GKS.shape[1] == 1:
        return rows_GMD * gates_GSK
    rows_GKSD = ops.reshape(rows_GMD, (*shape, x_GND.shape[-1]))
    gates_GKS = ops.transpose(gates_GSK, (0, 2, 1))
    return ops.sum(rows_GKSD * ops.expand_dims(gates_GKS, -1), axis=1)
