"""A variable of which each core stores a slice only."""

import itertools

import keras
import tensorflow as tf

from keras_switch.private.keras import get_stateless_scope
from keras_switch.private.keras import in_stateless_scope

# These compute their values: a graph of them holds no large constant.
_DRAWS = (
    keras.initializers.RandomNormal,
    keras.initializers.RandomUniform,
    keras.initializers.TruncatedNormal,
    keras.initializers.VarianceScaling,
    keras.initializers.Zeros,
)


class Split:
    """How the cores of a mesh share out a tensor.

    Args:
        layout: `Layout`.
        strategy: `tf.distribute.Strategy` with one replica for each core of the layout.
        axes: Tuple with, for each axis of the tensor, the mesh axis that splits it or `None`.
    """

    def __init__(self, layout, strategy, axes):
        self.layout = layout
        self.strategy = strategy
        self.axes = tuple(axes)

    def keep(self, kept):
        """The split of a tensor that has some axes of this one only, in this order."""
        return Split(self.layout, self.strategy, [self.axes[axis] for axis in kept])

    def slice_shape(self, shape):
        return tuple(size // self.layout.axes.get(axis, 1) for size, axis in zip(shape, self.axes))

    def slices(self, shape):
        """For each core, the slice of a tensor of this shape: a tuple of `slice`."""
        sizes = self.slice_shape(shape)
        places = [
            self.layout.coordinates(axis) if axis else [0] * self.layout.num_cores
            for axis in self.axes
        ]
        return [
            tuple(slice(i * size, (i + 1) * size) for i, size in zip(core, sizes))
            for core in zip(*places)
        ]

    def join(self, parts):
        """The whole tensor from the slices of all cores."""
        first = {}
        for core, part in enumerate(parts):
            place = tuple(self.layout.coordinates(axis)[core] if axis else 0 for axis in self.axes)
            first.setdefault(place, part)
        for axis in reversed(range(len(self.axes))):
            places = itertools.groupby(sorted(first), lambda place: place[:axis])
            first = {
                start: _concat([first[place] for place in sorted(group)], axis)
                for start, group in places
            }
        return first[()]


def _concat(parts, axis):
    return parts[0] if len(parts) == 1 else tf.concat(parts, axis)


class SplitVariable(keras.Variable):
    """A variable that is whole to the outside and a slice inside a replica.

    Outside the replicas of its strategy its shape is the whole shape, reading gathers and assigning
    scatters, so that saving, loading, counting and eager calls know nothing of slices. Inside a
    replica its shape and value are those of the core's own slice.

    Args:
        split: `Split`.
        initializer: Initializer of the whole value.
        shape: Tuple of ints. The whole shape.
        **kwargs: Arguments of `keras.Variable`.
    """

    def __init__(self, split, initializer, shape, **kwargs):
        self.split = split
        super().__init__(
            initializer, shape=shape, synchronization="on_read", aggregation="none", **kwargs
        )

    def _initialize_with_initializer(self, initializer):
        slice_shape = self.split.slice_shape(self._shape)
        with self.split.strategy.scope():
            self._value = tf.Variable(
                lambda: tf.zeros(slice_shape, self._dtype),
                trainable=self.trainable,
                name=self.name,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.NONE,
            )

        # The whole value lies on the host: a core may have no room for it. Unlike eager ops, a
        # function reuses memory, and so holds it once.
        def draw():
            return initializer(self._shape, dtype=self._dtype)

        with tf.device("CPU:0"):
            if isinstance(initializer, _DRAWS):
                draw = tf.function(draw).get_concrete_function()
            self._direct_assign(draw())

    @property
    def slices(self):
        """The `tf.Variable` of each core."""
        return self.split.strategy.experimental_local_results(self._value)

    def _in_replica(self):
        context = tf.distribute.get_replica_context()
        return context is not None and context.strategy is self.split.strategy

    @property
    def shape(self):
        if self._in_replica():
            return tf.TensorShape(self.split.slice_shape(self._shape))
        return tf.TensorShape(self._shape)

    @property
    def value(self):
        if self._value is None or self._in_replica():
            return super().value
        if in_stateless_scope() and get_stateless_scope().get_current_value(self) is not None:
            return super().value
        with tf.device("CPU:0"):
            whole = self.split.join([tf.convert_to_tensor(part) for part in self.slices])
        whole = self._maybe_autocast(whole)
        # Keras's optimizers ask for this first.
        whole._distributed_container = self._refuse
        return whole

    def assign(self, value):
        if not self._in_replica():
            with tf.device("CPU:0"):
                return super().assign(value)
        if in_stateless_scope():
            return super().assign(value)
        raise ValueError(
            "A split weight is assigned whole, outside a replica; inside one, an optimizer of the "
            f"mesh updates it. Received: {self.path}"
        )

    def _direct_assign(self, value):
        value = tf.cast(value, self._dtype)
        for part, place in zip(self.slices, self.split.slices(self._shape)):
            part.assign(value[place])

    @property
    def handle(self):
        if not self._in_replica():
            raise ValueError(
                "The slices of a split weight have gradients inside a replica only: train with "
                f"`fit`, or call `strategy.run`. Received: {self.path}"
            )
        return self._value.handle

    @property
    def overwrite_with_gradient(self):
        """What Keras's own optimizers ask before they update; a mesh's do not ask."""
        self._refuse()

    def _refuse(self):
        raise ValueError(
            f"Weight '{self.path}' is split over the cores of a mesh, and this optimizer would mix "
            "its slices up. Wrap it: compile(optimizer=mesh.optimizer(optimizer), ...). With "
            "mixed_float16 wrap keras.optimizers.LossScaleOptimizer(optimizer). To go on from a "
            "file: load_model(path, compile=False), compile so, "
            "model.optimizer.build(model.trainable_variables), and model.load_weights(path)."
        )

    @property
    def _shared_name(self):
        return self.path

    def _serialize_to_tensors(self):
        return {"VARIABLE_VALUE": self.value}

    def _restore_from_tensors(self, restored_tensors):
        self.assign(restored_tensors["VARIABLE_VALUE"])
        return self.value

    def _copy_trackable_to_cpu(self, object_map):
        self._refuse_export()

    def _export_to_saved_model_graph(self, object_map, tensor_map, options, **kwargs):
        self._refuse_export()

    def _refuse_export(self):
        raise ValueError(
            f"Weight '{self.path}' is split over the cores of a mesh, and a SavedModel would hold "
            "one slice of it. Export the ordinary model: mesh.whole(model)"
        )
