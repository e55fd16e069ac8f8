"""A mesh on the TensorFlow backend: one replica of a `tf.distribute.Strategy` a core."""

import contextlib
import functools

import keras
import numpy as np
import tensorflow as tf

from keras_switch.layers import scopes
from keras_switch.layers.parallelism import Parallelism
from keras_switch.tpu import calls
from keras_switch.tpu import cores
from keras_switch.tpu.tensorflow import exchange
from keras_switch.tpu.tensorflow import optimizers
from keras_switch.tpu.tensorflow.split_variable import Split
from keras_switch.tpu.tensorflow.split_variable import SplitVariable
from keras_switch.tpu.tensorflow.strategy import extend
from keras_switch.tpu.tensorflow.strategy import in_order


class Replicas:
    """The strategy of a mesh.

    Args:
        layout: `Layout`.
        strategy: `tf.distribute.Strategy`. Defaults to one over the cores that `connect` found.

    Attributes:
        strategy: `tf.distribute.Strategy`.
        experts: `ReplicatedExperts`.
    """

    def __init__(self, layout, strategy=None):
        self.layout = layout
        self.strategy = strategy or _strategy(layout)
        kinds = (tf.distribute.MirroredStrategy, tf.distribute.TPUStrategy)
        if not isinstance(self.strategy, kinds):
            raise ValueError(
                "A mesh lies on a `tf.distribute.TPUStrategy` or `tf.distribute.MirroredStrategy`. "
                f"Received: devices={strategy!r}"
            )
        replicas = self.strategy.num_replicas_in_sync
        if replicas != layout.num_cores:
            raise ValueError(
                f"The mesh has {layout.num_cores} cores, and the strategy {replicas} replicas. "
                f"Received: {layout}, devices={strategy!r}"
            )
        self.experts = ReplicatedExperts(layout, self.strategy)
        extend(self.strategy, self.experts)
        calls.watch(in_order)

    def scope(self):
        return self.strategy.scope()

    @contextlib.contextmanager
    def outside(self):
        if tf.distribute.has_strategy():
            raise ValueError(
                "`mesh.whole` makes a model off the mesh: call it outside `with mesh.scope()`."
            )
        yield

    def optimizer(self, optimizer):
        return optimizers.wrap(optimizer, self.layout, self.strategy)

    def axes_of(self, variable):
        if isinstance(variable, SplitVariable):
            return variable.split.axes
        return (None,) * len(variable.shape)


def _strategy(layout):
    found = cores.found()
    num_cores = layout.num_cores
    if found.resolver is not None and len(found.devices) == num_cores:
        return tf.distribute.TPUStrategy(found.resolver)
    if len(found.devices) < num_cores or found.resolver is not None:
        raise ValueError(
            f"The mesh has {num_cores} cores, and there are {len(found.devices)}: change its shape"
            f", or connect to as many. Received: {layout}, connected to {found.description}"
        )
    return tf.distribute.MirroredStrategy(found.devices[:num_cores])


class ReplicatedExperts(Parallelism):
    """Experts split over the replicas of a strategy.

    Inside a replica a layer sees the replica's groups and slices, and exchanges. Outside one it
    sees everything, whole, and exchanges nothing: the results are the same.

    Args:
        layout: `Layout`.
        strategy: `tf.distribute.Strategy` with one replica for each core of the layout.
    """

    def __init__(self, layout, strategy):
        self._layout = layout
        self._strategy = strategy
        self._shares = False
        self._experts = self._groups("experts")
        self._hidden = self._groups("expert_hidden")
        # Which cores' groups a core sees at the experts, in the order in which they arrive.
        experts, hidden = (_members(groups) for groups in (self._experts, self._hidden))
        self._senders = np.array(
            [[i for j in hidden[core] for i in experts[j]] for core in range(layout.num_cores)]
        )

    def _groups(self, dimension):
        axis = self._layout.axis(dimension)
        return self._layout.groups([axis] if axis else [])

    def in_replica(self):
        """Whether this is called inside a replica of the strategy."""
        context = tf.distribute.get_replica_context()
        return context is not None and context.strategy is self._strategy

    @contextlib.contextmanager
    def sharing(self):
        """Within it, all cores are given the same tokens, and share out their groups."""
        self._shares = True
        try:
            yield
        finally:
            self._shares = False

    def add_weight(self, layer, dimensions, *, name, shape, initializer):
        axes = self._layout.split(f"{layer.path}/{name}", dimensions, shape)
        if not any(axes):
            return layer.add_weight(name=name, shape=shape, initializer=initializer)
        with keras.name_scope(layer.name, caller=layer):
            return SplitVariable(
                Split(self._layout, self._strategy, axes),
                initializer,
                shape=shape,
                dtype=layer.variable_dtype,
                name=name,
            )

    def num_groups(self, num_groups):
        num_cores = self._layout.num_cores
        num_groups = num_groups or num_cores
        if num_groups % num_cores:
            raise ValueError(
                "`num_groups` must be a multiple of the mesh's cores. Received: "
                f"num_groups={num_groups}, {num_cores} cores"
            )
        deals = self.in_replica() and not self._shares
        return num_groups // num_cores if deals else num_groups

    def check_group_size(self, num_tokens, group_size):
        if not self.in_replica() or self._shares:
            return
        message = (
            "On a mesh `group_size` must divide the tokens of each core. Received: "
            f"group_size={group_size}, {self._layout.num_cores} cores"
        )
        if not isinstance(num_tokens, int):
            tf.debugging.assert_equal(num_tokens % group_size, 0, message)
        elif num_tokens % group_size:
            raise ValueError(f"{message}, {num_tokens} tokens on each")

    def run(self, function, weights, dimensions, *groups):
        if self.in_replica():
            if self._shares:
                function = functools.partial(self._share, function)
            # Replicas have threads of their own; `dropless` may be around all of them.
            context = tf.distribute.get_replica_context()
            if context.merge_call(lambda strategy: scopes.is_dropless()):
                with scopes.dropless():
                    return function(weights, *groups)
        return function(weights, *groups)

    def _share(self, function, weights, *groups):
        """Calls a function on this core's part of the groups, and gathers what all return."""
        num_groups = groups[0].shape[0] or tf.shape(groups[0])[0]
        num_cores = self._layout.num_cores
        own = -(-num_groups // num_cores)
        first = exchange.core_index() * own
        parts = []
        for x_G in groups:
            rest = [[0, 0]] * (x_G.shape.rank - 1)
            x_G = tf.pad(x_G, [[0, own * num_cores - num_groups], *rest])
            parts.append(tf.slice(x_G, [first, *[0] * len(rest)], [own, *[-1] * len(rest)]))
        everyone = self._layout.groups(self._layout.axes)
        results = function(weights, *parts)
        gathered = (None if y is None else exchange.all_gather(y, everyone) for y in results)
        return type(results)(*(None if y is None else y[:num_groups] for y in gathered))

    def check_whole(self, what):
        raise ValueError(
            f"{what} needs whole weights, and those of this model are split over a mesh. Take "
            f"`mesh.whole(model)`. Received: a model on {self._layout}"
        )

    def mean(self, x):
        return self.sum_over_cores(x) / self._layout.num_cores if self.in_replica() else x

    def sum_over_cores(self, x):
        if not self.in_replica():
            return x
        return exchange.all_sum([x], self._layout.groups(self._layout.axes))[0]

    def sum_of_groups(self, x_G):
        return tf.reduce_sum(x_G) * (self._layout.num_cores if self.in_replica() else 1)

    def to_experts(self, x_GECD):
        if not self.in_replica():
            return x_GECD
        x_GECD = exchange.all_to_all(x_GECD, self._experts, split=1, concat=0)
        return exchange.all_gather(x_GECD, self._hidden)

    def to_tokens(self, y_GECD):
        if not self.in_replica():
            return y_GECD
        y_GECD = exchange.scatter_sum(y_GECD, self._hidden)
        return exchange.all_to_all(y_GECD, self._experts, split=0, concat=1)

    def gather(self, x_G):
        if not self.in_replica():
            return x_G
        return exchange.all_gather(exchange.all_gather(x_G, self._experts), self._hidden)

    def scatter_sum(self, y_G):
        if not self.in_replica():
            return y_G
        return exchange.scatter_sum(exchange.scatter_sum(y_G, self._hidden), self._experts)

    def group_indices(self, num_groups):
        if not self.in_replica():
            return super().group_indices(num_groups)
        return exchange.core_index() * num_groups + tf.range(num_groups)

    def gathered_indices(self, num_groups):
        if not self.in_replica():
            return super().gathered_indices(num_groups)
        senders = tf.gather(tf.constant(self._senders, tf.int32), exchange.core_index())
        return tf.reshape(senders[:, None] * num_groups + tf.range(num_groups), [-1])

    def first(self, dimension, size):
        axis = self._layout.axis(dimension)
        if axis is None or not self.in_replica():
            return 0
        coordinates = tf.constant(self._layout.coordinates(axis), tf.int32)
        return tf.gather(coordinates, exchange.core_index()) * size


def _members(groups):
    """Dictionary of each core's group."""
    return {core: group for group in groups for core in group}
