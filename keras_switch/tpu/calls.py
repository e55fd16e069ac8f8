"""What Keras does with which model: its trainer tells a mesh neither."""

import contextvars
import functools
import typing

import keras

_TRAINING = ("fit", "train_on_batch")
_PREDICTION = ("predict", "predict_on_batch")
_EVALUATION = (*_PREDICTION, "evaluate", "test_on_batch")
_METHODS = (*_TRAINING, *_EVALUATION, "compile")


class Call(typing.NamedTuple):
    """A model, the name of its method that runs, and keyword arguments; `None` where none does."""

    model: typing.Any = None
    method: str | None = None
    kwargs: dict | None = None

    @property
    def trains(self):
        return self.method in _TRAINING

    @property
    def evaluates(self):
        """Whether it evaluates or predicts."""
        return self.method in _EVALUATION

    @property
    def predicts(self):
        return self.method in _PREDICTION


_current = contextvars.ContextVar("call", default=Call())


def current():
    """Returns the inner `Call`."""
    return _current.get()


@functools.cache
def watch(around):
    """Makes the methods of every `keras.Model` that train, evaluate or predict say that they run.

    Args:
        around: Callable that takes a `Call` and returns a context manager, in which the method
            then runs.
    """
    for name in _METHODS:
        # Keras compares methods with those of this class.
        owner = next(base for base in keras.Model.__mro__ if name in vars(base))
        setattr(owner, name, _watched(name, vars(owner)[name], around))


def _watched(name, method, around):
    @functools.wraps(method)
    def watched(self, *args, **kwargs):
        call = Call(self, name, kwargs)
        token = _current.set(call)
        try:
            with around(call):
                return method(self, *args, **kwargs)
        finally:
            _current.reset(token)

    return watched
