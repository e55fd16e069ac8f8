"""How replicas of a TensorFlow strategy exchange tensors.

On TPUs these are the hardware's own collectives. Elsewhere, under `MirroredStrategy`, one
function sees the tensors of all replicas and moves them between the devices.
"""

import tensorflow as tf

from keras_switch.private.tensorflow import regroup


def is_tpu(strategy):
    return isinstance(strategy, tf.distribute.TPUStrategy)


def core_index():
    """int32 scalar: the replica that is being computed."""
    return tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int32)


def all_to_all(x, groups, split, concat):
    """Cuts `x` along axis `split` into one part a core and joins what arrives along `concat`.

    Args:
        x: Tensor, of equal shape on all cores.
        groups: List of equally long lists of cores, which exchange among themselves.
        split: int.
        concat: int.

    Returns:
        Tensor with the parts of the group's cores in order. The gradient is exact.
    """
    if len(groups[0]) == 1:
        return x

    @tf.custom_gradient
    def function(x):
        return _swap(x, groups, split, concat), lambda dy: _swap(dy, groups, concat, split)

    return function(x)


def all_gather(x, groups):
    """Joins the group's tensors along axis 0. The gradient is that of `scatter_sum`."""
    size = len(groups[0])
    if size == 1:
        return x

    @tf.custom_gradient
    def function(x):
        copies = tf.tile(x, [size] + [1] * (x.shape.rank - 1))
        return _swap(copies, groups, 0, 0), lambda dy: scatter_sum(dy, groups)

    return function(x)


def scatter_sum(x, groups):
    """Sums the group's tensors in float32 at least; each core keeps its own part of axis 0."""
    size = len(groups[0])
    if size == 1:
        return x

    @tf.custom_gradient
    def function(x):
        parts = tf.split(_swap(x, groups, 0, 0), size)
        dtype = tf.float64 if x.dtype == tf.float64 else tf.float32
        total = tf.cast(tf.add_n([tf.cast(part, dtype) for part in parts]), x.dtype)
        return total, lambda dy: all_gather(dy, groups)

    return function(x)


def all_sum(tensors, groups):
    """Sums each of a list of tensors over the group. It has no gradient."""
    if not tensors or len(groups[0]) == 1:
        return tensors
    context = tf.distribute.get_replica_context()
    if is_tpu(context.strategy):
        return [tf.raw_ops.CrossReplicaSum(input=x, group_assignment=groups) for x in tensors]

    def across(strategy, tensors):
        devices = strategy.extended.worker_devices
        sums = []
        for tensor in tensors:
            per_core = strategy.experimental_local_results(tensor)
            summed = {}
            for group in groups:
                with tf.device(devices[group[0]]):
                    total = tf.add_n([per_core[core] for core in group])
                for core in group:
                    with tf.device(devices[core]):
                        summed[core] = tf.identity(total)
            sums.append(regroup([summed[core] for core in range(len(devices))]))
        return sums

    return context.merge_call(across, args=(tensors,))


def _swap(x, groups, split, concat):
    size = len(groups[0])
    context = tf.distribute.get_replica_context()
    if is_tpu(context.strategy):
        return tf.raw_ops.AllToAll(
            input=x,
            group_assignment=groups,
            split_dimension=split,
            concat_dimension=concat,
            split_count=size,
        )

    def across(strategy, x):
        devices = strategy.extended.worker_devices
        parts = []
        for device, value in zip(devices, strategy.experimental_local_results(x)):
            with tf.device(device):
                parts.append(tf.split(value, size, axis=split))
        received = {}
        for group in groups:
            for place, core in enumerate(group):
                with tf.device(devices[core]):
                    received[core] = tf.concat([parts[sender][place] for sender in group], concat)
        return regroup([received[core] for core in range(len(devices))])

    return context.merge_call(across, args=(x,))
