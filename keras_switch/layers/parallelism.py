"""Where a layer's groups and experts lie. The layers know this interface and no mesh."""

import contextlib
import contextvars


class Parallelism:
    """One core: it holds every group and every expert, and exchanges nothing."""

    def group(self, x):
        """Regroups `(G, S, ...)` so that each core holds whole groups."""
        return x

    def to_experts(self, x):
        """Sends `(G, E, C, D)` from the cores that hold the groups to the experts'."""
        return x

    def to_tokens(self, x):
        """The inverse of `to_experts`."""
        return x


_active = contextvars.ContextVar("parallelism", default=Parallelism())


@contextlib.contextmanager
def use(parallelism):
    """Makes the layers that are built inside the `with` block use a `Parallelism`."""
    token = _active.set(parallelism)
    try:
        yield
    finally:
        _active.reset(token)


def active():
    """Returns the parallelism that a layer captures when it is built."""
    return _active.get()
