"""What a mesh adds to a `tf.distribute` strategy."""

import contextlib

import tensorflow as tf

from keras_switch.layers import parallelism


class MeshStrategy:
    """Stands before a strategy's own class, so that Keras's `fit` needs no change.

    What is built in its scope, also late by `fit`, is split; and batches that the cores cannot
    share evenly are refused.
    """

    @contextlib.contextmanager
    def scope(self):
        with super().scope(), parallelism.use(self._experts):
            yield

    def experimental_distribute_dataset(self, dataset, options=None):
        return super().experimental_distribute_dataset(self._checked(dataset), options)

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
