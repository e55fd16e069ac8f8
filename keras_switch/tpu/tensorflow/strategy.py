"""What a mesh adds to a `tf.distribute` strategy."""

import contextlib
import functools

import keras
import tensorflow as tf

from keras_switch.layers import parallelism
from keras_switch.tpu import calls
from keras_switch.tpu.tensorflow import uneven
from keras_switch.tpu.tensorflow.split_variable import SplitVariable


class MeshStrategy:
    """Stands before a strategy's own class, so that Keras's `fit` needs no change.

    What is built in its scope, also late by `fit`, is split. Batches that the cores cannot share
    evenly are refused in training; to evaluate one, all cores compute the whole of it, but for the
    experts, and one of them counts.
    """

    @contextlib.contextmanager
    def scope(self):
        if tf.distribute.has_strategy() and tf.distribute.get_strategy() is not self:
            raise ValueError(
                "The scope of a mesh cannot lie in that of another one: leave the outer one first. "
                f"Received: {self}, inside {tf.distribute.get_strategy()}"
            )
        with super().scope(), parallelism.use(self._experts):
            yield

    def experimental_distribute_dataset(self, dataset, options=None):
        deal = functools.partial(super().experimental_distribute_dataset, options=options)
        if calls.current().method == "fit":
            return _Dealt(lambda: deal(dataset), lambda: deal(self._checked(dataset)))
        return deal(dataset if calls.current().evaluates else self._checked(dataset))

    def run(self, fn, args=(), kwargs=None, options=None):
        run = functools.partial(super().run, kwargs=kwargs, options=options)
        if not calls.current().evaluates or self.num_replicas_in_sync == 1:
            return run(fn, args)

        def together():
            metrics = calls.current().model.metrics_variables
            with self._experts.sharing(), uneven.counted_once(metrics, self):
                results = run(uneven.restoring(fn, metrics), uneven.joined(args, self))
            return uneven.of_one_core(results, self) if calls.current().predicts else results

        divides = uneven.divides(args, self)
        if isinstance(divides, bool):
            return run(fn, args) if divides else together()
        return uneven.cond(divides, lambda: run(fn, args), together, self)

    def reduce(self, reduce_op, value, axis):
        # Keras looks at the mean of the parts of a batch, to learn what the model is given.
        if calls.current().evaluates and axis is None:
            value = uneven.of_all_cores(value, self)
        return super().reduce(reduce_op, value, axis)

    def _checked(self, dataset):
        specs = tf.nest.flatten(dataset.element_spec)
        dense = [i for i, x in enumerate(specs) if isinstance(x, tf.TensorSpec) and x.shape.rank]
        if not dense:
            return dataset
        rows = specs[dense[0]].shape[0]
        if rows is not None:
            if rows % self.num_replicas_in_sync:
                raise ValueError(f"{self._message()} Received: a batch of {rows}")
            return dataset

        def check(*batch):
            rows = tf.shape(tf.nest.flatten(batch)[dense[0]])[0]
            divides = tf.equal(rows % self.num_replicas_in_sync, 0)
            tf.debugging.Assert(divides, [self._message(), "Received: a batch of", rows])
            return batch if isinstance(dataset.element_spec, tuple) else batch[0]

        return dataset.map(check)

    def _message(self):
        cores = self.num_replicas_in_sync
        return (
            f"A batch must divide over the {cores} cores of the mesh. Make every batch, also the "
            f"last one, a multiple of {cores}, as with "
            "`dataset.batch(batch_size, drop_remainder=True)`."
        )


class _Dealt:
    """A dataset of `fit`, of which it is not known yet whether it is to train or to validate."""

    def __init__(self, deal, deal_checked):
        self._deal = deal
        self._deal_checked = deal_checked

    def __iter__(self):
        return iter(self._deal() if calls.current().evaluates else self._deal_checked())


@contextlib.contextmanager
def in_order(call):
    """Makes what `compile` makes for a model of a mesh lie there, and refuses what cannot work."""
    model, strategy = call.model, call.model.distribute_strategy
    if call.method == "fit":
        _check_callbacks(model, call.kwargs.get("callbacks"))
    if call.method != "compile" or not isinstance(strategy, MeshStrategy):
        yield
        return
    with strategy.scope():
        yield
    if getattr(model.optimizer, "_strategy", strategy) is not strategy:
        raise ValueError(
            "The optimizer belongs to another mesh than the model: make both in the scope of the "
            f"same one. Received: {model.name}, {model.optimizer.name}"
        )


def _check_callbacks(model, callbacks):
    swaps = any(isinstance(x, keras.callbacks.SwapEMAWeights) for x in tf.nest.flatten(callbacks))
    split = [x.path for x in model.trainable_variables if swaps and isinstance(x, SplitVariable)]
    if split:
        raise ValueError(
            "`SwapEMAWeights` cannot swap weights that are split over a mesh: leave it out, and "
            "take the averages by the optimizer's `ema_overwrite_frequency`, or at the end of "
            f"`fit`. Received: {split}"
        )


def extend(strategy, experts):
    """Makes a strategy a `MeshStrategy`.

    Args:
        strategy: `tf.distribute.Strategy`.
        experts: `ReplicatedExperts`.
    """
    base = type(strategy)
    if getattr(strategy, "_experts", experts) is not experts:
        raise ValueError("A strategy belongs to one mesh: make another one for another mesh.")
    if not isinstance(strategy, MeshStrategy):
        strategy.__class__ = type(base.__name__, (MeshStrategy, base), {})
    strategy._experts = experts
