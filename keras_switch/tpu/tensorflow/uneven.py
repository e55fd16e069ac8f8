"""Batches that the replicas of a strategy cannot share evenly, given to all of them whole."""

import contextlib

import tensorflow as tf

from keras_switch.private.tensorflow import regroup
from keras_switch.tpu.tensorflow import exchange


def divides(args, strategy):
    """Whether all replicas have as many rows: bool, or boolean tensor where a graph does not know.

    A batch that was not dealt out does not divide.
    """
    dealt = [x for x in tf.nest.flatten(args) if isinstance(x, tf.distribute.DistributedValues)]
    dense = [strategy.experimental_local_results(x) for x in dealt]
    dense = [parts for parts in dense if tf.is_tensor(parts[0]) and parts[0].shape.rank]
    if not dense:
        return bool(dealt)
    rows = [part.shape[0] for part in dense[0]]
    if None not in rows:
        return len(set(rows)) == 1
    rows = tf.stack([tf.shape(part)[0] for part in dense[0]])
    return tf.reduce_all(tf.equal(rows, rows[0]))


def joined(args, strategy):
    """The whole batch of which replicas have parts, in order."""

    def join(x):
        if not isinstance(x, tf.distribute.DistributedValues):
            return x
        parts = strategy.experimental_local_results(x)
        if isinstance(parts[0], tf.SparseTensor):
            return tf.sparse.concat(0, parts)
        return tf.concat(parts, 0) if parts[0].shape.rank else parts[0]

    return tf.nest.map_structure(join, args)


def restoring(function, variables):
    """Makes a function that all replicas call with the same batch add to metrics in one of them.

    Args:
        function: Callable.
        variables: List of `keras.Variable`, which are summed over the replicas.
    """
    variables = [variable for variable in variables if _is_replicated(variable)]

    def on_a_core(*args, **kwargs):
        before = [tf.convert_to_tensor(variable.value) for variable in variables]
        results = function(*args, **kwargs)
        for variable, value in zip(variables, before):
            variable.assign(tf.where(exchange.core_index() == 0, variable.value, value))
        return results

    return on_a_core


@contextlib.contextmanager
def counted_once(variables, strategy):
    """Divides what all replicas add to metrics that were made outside the scope, in one place."""
    variables = [variable for variable in variables if not _is_replicated(variable)]
    before = [tf.identity(variable.value) for variable in variables]
    yield
    for variable, value in zip(variables, before):
        added = (variable.value - value) / strategy.num_replicas_in_sync
        variable.assign(value + tf.cast(added, value.dtype))


def _is_replicated(variable):
    return isinstance(variable._value, tf.distribute.DistributedValues)


def of_one_core(results, strategy):
    """Cuts the rows of all replicas but the first, which would be returned once more."""

    def cut(x):
        first, *others = strategy.experimental_local_results(x)
        return regroup([first, *(y[:0] if y.shape.rank else y for y in others)])

    return tf.nest.map_structure(cut, results)


def of_all_cores(batch, strategy):
    """Gives the part of the first replica to all."""

    def repeat(x):
        parts = strategy.experimental_local_results(x)
        return regroup([parts[0]] * len(parts))

    return tf.nest.map_structure(repeat, batch)


def cond(condition, run, run_otherwise, strategy):
    """`tf.cond` of functions whose results have a part on each replica."""
    structure = None

    def parts(run):
        nonlocal structure
        structure = run()
        return [strategy.experimental_local_results(x) for x in tf.nest.flatten(structure)]

    results = tf.cond(condition, lambda: parts(run), lambda: parts(run_otherwise))
    return tf.nest.pack_sequence_as(structure, [regroup(x) for x in results])
