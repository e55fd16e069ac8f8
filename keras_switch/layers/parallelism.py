"""Where a layer's groups and experts lie. The layers know this interface and no mesh."""

import contextlib
import contextvars

from keras import ops


class Parallelism:
    """One core: it holds every group and every weight, and exchanges nothing.

    A layer's tokens form groups, and a group lies on one core. `run` calls a function on
    each core with the core's own groups and slices of weights. All methods after `mean`
    are for use inside that function.
    """

    def add_weight(self, layer, dimensions, **kwargs):
        """Adds a weight to a layer, split as a mesh says.

        Args:
            layer: `keras.layers.Layer` in its `build`.
            dimensions: Tuple with, for each axis of the weight, `"experts"`,
                `"expert_hidden"` or `None`.
            **kwargs: Arguments of `layer.add_weight`.
        """
        return layer.add_weight(**kwargs)

    def num_groups(self, num_groups):
        """How many groups to make here of `num_groups` in all; `None` is the default."""
        return num_groups or 1

    def check_group_size(self, num_tokens, group_size):
        """Raises `ValueError` where the `num_tokens` here make other groups than all would."""

    def run(self, function, weights, dimensions, *groups):
        """Calls `function(weights, *groups)` on each core.

        Args:
            function: Callable. All tensors that it returns have a leading axis of groups.
            weights: Named tuple of tensors; some may be `None`.
            dimensions: Named tuple of the same type: each weight's dimensions, as in
                `add_weight`. `None` for what every core gets whole.
            *groups: Tensors with a leading axis of groups.

        Returns:
            What `function` returns, for the groups that the caller holds.
        """
        return function(weights, *groups)

    def check_whole(self, what):
        """Raises `ValueError` where no core has whole weights for `what`, a string."""

    def sum_of_groups(self, x_G):
        """A scalar for each caller of `run`, whose mean over the callers is the sum of all groups.

        Args:
            x_G: Tensor of the groups that the caller holds.
        """
        return ops.sum(x_G)

    def mean(self, x):
        """The mean of a scalar over all cores, which has no gradient."""
        return x

    def to_experts(self, x_GECD):
        """Sends each expert's slots to the cores that hold the expert: `(G', E', C, D)`."""
        return x_GECD

    def to_tokens(self, y_GECD):
        """The way back of `to_experts`; sums the parts where an expert's width is split."""
        return y_GECD

    def sum_over_cores(self, x):
        """The sum of a tensor over all cores, which has no gradient."""
        return x

    def gather(self, x_G):
        """The groups, `(G', ...)`, of all cores that share out one set of experts."""
        return x_G

    def scatter_sum(self, y_G):
        """Sums `(G', ...)` over the cores of `gather`, each keeping its own `(G, ...)`."""
        return y_G

    def group_indices(self, num_groups):
        """Indices, over all cores, of the `G` groups that this core holds."""
        return ops.arange(num_groups, dtype="int32")

    def gathered_indices(self, num_groups):
        """The same of the `G'` groups after `to_experts` or `gather`."""
        return ops.arange(num_groups, dtype="int32")

    def first(self, dimension, size):
        """Index of the first of this core's `size` `"experts"`, or `"expert_hidden"` units."""
        return 0


_active = contextvars.ContextVar("parallelism", default=Parallelism())


@contextlib.contextmanager
def use(parallelism):
    """Makes the layers that are made inside the `with` block use a `Parallelism`."""
    token = _active.set(parallelism)
    try:
        yield
    finally:
        _active.reset(token)


def active():
    """Returns the parallelism that a layer captures when it is made."""
    return _active.get()
