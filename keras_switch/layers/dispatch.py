"""From tokens to the experts' slots and back by a `placement.Plan`: two gathers.

Entries and slots are inverse maps, so the gradient of each gather is the other gather,
and nothing is ever scattered.
"""

import functools

from keras import ops

from keras_switch import backend


def _rows(x_GND, indices_GM):
    """`x[g, indices[g, m]]`, zeros where the index is -1."""
    rows_GMD = backend.gather_rows(x_GND, ops.maximum(indices_GM, 0))
    return ops.where(indices_GM[..., None] >= 0, rows_GMD, ops.zeros((), rows_GMD.dtype))


def _gather(rows_of, x_GND, indices_GM, inverse_GKN):
    """`rows_of(x, indices)`, whose gradient gathers by the inverse map and sums over K."""

    # The maps are arguments, because JAX traces what it maps over devices on its own.
    @ops.custom_gradient
    def function(x_GND, indices_GM, inverse_GKN):
        def gradient(*args, upstream=None):
            upstream_GMD = args[0] if upstream is None else upstream
            copies = [_rows(upstream_GMD, inverse) for inverse in ops.unstack(inverse_GKN, axis=1)]
            return functools.reduce(ops.add, copies), None, None

        return rows_of(x_GND, indices_GM), gradient

    return function(x_GND, indices_GM, inverse_GKN)


def dispatch(x_GSD, plan):
    """Fills the slots: `(G, S, D)` tokens give `(G, N, D)`.

    An empty slot holds some token: nobody reads what becomes of it, and its gradient is 0.
    """
    tokens_GN = ops.maximum(plan.entries_GN, 0) % ops.shape(x_GSD)[1]
    return _gather(backend.gather_rows, x_GSD, tokens_GN, plan.slots_GKS)


def combine(x_GND, plan, gates_GSK):
    """Sums each token's slots times its gates; a token without a slot gets zeros."""
    shape = ops.shape(plan.slots_GKS)
    slots_GM = ops.reshape(plan.slots_GKS, (shape[0], -1))
    rows_GMD = _gather(_rows, x_GND, slots_GM, plan.entries_GN[:, None])
    gates_GSK = ops.cast(gates_GSK, x_GND.dtype)
    if plan.slots_GKS.shape[1] == 1:
        return rows_GMD * gates_GSK
    rows_GKSD = ops.reshape(rows_GMD, (*shape, x_GND.shape[-1]))
    return ops.sum(rows_GKSD * ops.transpose(gates_GSK, (0, 2, 1))[..., None], axis=1)
