"""Which optimizers can train split weights on the TensorFlow backend, and how."""

import keras
import tensorflow as tf
from keras import ops

from keras_switch.tpu.tensorflow import exchange
from keras_switch.tpu.tensorflow.replica_optimizer import ReplicaOptimizer
from keras_switch.tpu.tensorflow.replica_optimizer import Sums
from keras_switch.tpu.tensorflow.replica_optimizer import split_axes

# A step of these looks at each element of a weight alone. So does ScheduleFreeAdamW's, but on
# TensorFlow Keras reads its old momentum after replacing it: one core has nothing to be equal to.
ELEMENTWISE = (
    keras.optimizers.SGD,
    keras.optimizers.RMSprop,
    keras.optimizers.Adam,
    keras.optimizers.AdamW,
    keras.optimizers.Adadelta,
    keras.optimizers.Adagrad,
    keras.optimizers.Adamax,
    keras.optimizers.Ftrl,
    keras.optimizers.Nadam,
    keras.optimizers.Lion,
)


class _Lamb(keras.optimizers.Lamb):
    """Lamb with the norms of whole weights."""

    def update_step(self, gradient, variable, learning_rate):
        weight = variable.value
        super().update_step(gradient, variable, learning_rate)
        # The moments are right; the step was scaled by the norms of a slice.
        index = self._get_variable_index(variable)
        step = ops.cast(self.iterations + 1, weight.dtype)
        m = self._momentums[index] / (1.0 - ops.power(self.beta_1, step))
        v = self._velocities[index] / (1.0 - ops.power(self.beta_2, step))
        update = m / (ops.sqrt(v) + self.epsilon)
        squares = [tf.reduce_sum(tf.square(x)) for x in (weight, update)]
        weight_square, update_square = self._sums.slices(squares, [variable] * 2)
        both = tf.logical_and(weight_square > 0, update_square > 0)
        ratio = tf.where(both, tf.sqrt(weight_square / update_square), 1.0)
        variable.assign(weight - ratio * ops.cast(learning_rate, weight.dtype) * update)


class _CompletedMeans:
    """The hooks of `keras_switch.training.Adafactor`: means over whole axes, split slots."""

    def _add_slot(self, variable, name, axes):
        if not split_axes(variable):
            return super()._add_slot(variable, name, axes)
        dtype = keras.backend.result_type(variable.dtype, "float32")
        return self.add_slice(variable, name, axes, dtype=dtype)

    def _mean(self, x, axes, variable):
        mean = super()._mean(x, axes, variable)
        if not split_axes(variable):
            return mean
        layout = variable.split.layout
        split = {variable.split.axes[axis] for axis in axes} - {None}
        groups = layout.groups(split)
        return exchange.all_sum([mean], groups)[0] / len(groups[0])


class _LossScale(keras.optimizers.LossScaleOptimizer):
    """Loss scaling that skips a step on all cores if one core's gradient is not finite."""

    def apply(self, grads, trainable_variables=None):
        ReplicaOptimizer.apply(self, grads, trainable_variables)

    def stateless_apply(self, optimizer_variables, grads, trainable_variables):
        finite = self._sums.all(tf.cast(self.check_finite(grads), "float32"))
        finite = finite >= tf.cast(self._strategy.num_replicas_in_sync, "float32")
        taken = self._stateless_handle_finite_grads(optimizer_variables, grads, trainable_variables)
        skipped = self._stateless_handle_non_finite_grads(optimizer_variables, trainable_variables)
        return keras.tree.map_structure(
            lambda new, old: new if new is old else tf.where(finite, new, old), taken, skipped
        )


class _BuiltInScope:
    """Makes slots on the mesh, also for who builds an optimizer after the `with` block."""

    def build(self, variables):
        with self._strategy.scope():
            super().build(variables)


def wrap(optimizer, layout, strategy):
    """Makes a Keras optimizer train split weights.

    Its type becomes one in which `ReplicaOptimizer` stands between the optimizer's own class and
    Keras's TensorFlow code. Saved files know of the optimizer's own class only.

    Args:
        optimizer: `keras.optimizers.Optimizer` that is not built yet.
        layout: `Layout`.
        strategy: `tf.distribute.Strategy`.

    Returns:
        The optimizer.

    Raises:
        ValueError: If a step of the optimizer needs more of a weight than its slice.
    """
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise ValueError(
            "`mesh.optimizer` takes an optimizer object, such as keras.optimizers.Adam(1e-3). "
            f"Received: {optimizer!r}"
        )
    if isinstance(optimizer, ReplicaOptimizer):
        if optimizer._strategy is not strategy:
            raise ValueError(
                f"The optimizer belongs to another mesh already. Received: {optimizer.name}"
            )
        return optimizer
    _check_fresh(optimizer, strategy)
    base = type(optimizer)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        wrap(optimizer.inner_optimizer, layout, strategy)
    # Whoever asks for the class, as what saves a model does, is told the optimizer's own.
    names = {"__class__": property(lambda self: base)}
    optimizer.__class__ = type(base.__name__, (_BuiltInScope, *_bases(base)), names)
    optimizer._strategy = strategy
    optimizer._sums = Sums(layout)
    return optimizer


def _bases(base):
    if issubclass(base, keras.optimizers.LossScaleOptimizer):
        return (_LossScale, base, ReplicaOptimizer)
    if base.update_step is keras.optimizers.Lamb.update_step:
        return (_Lamb, base, ReplicaOptimizer)
    if base.update_step is getattr(_adafactor(), "update_step", None):
        return (_CompletedMeans, base, ReplicaOptimizer)
    if base.update_step in [known.update_step for known in ELEMENTWISE]:
        return (base, ReplicaOptimizer)
    names = [known.__name__ for known in (*ELEMENTWISE, keras.optimizers.Lamb)]
    raise ValueError(
        f"A step of `{base.__name__}` may need more of a weight than a core's slice. Use "
        f"keras_switch.training.Adafactor or one of keras.optimizers: {', '.join(names)}. "
        f"Received: {base.__module__}.{base.__qualname__}"
    )


def _adafactor():
    """`keras_switch.training.Adafactor`, or `None` where it was not imported."""
    return keras.saving.get_registered_object("keras_switch>Adafactor")


def _check_fresh(optimizer, strategy):
    if getattr(optimizer, "_exclude_from_weight_decay", None):
        raise ValueError(
            "Call `exclude_from_weight_decay(var_list=...)` after `mesh.optimizer`: it changes how "
            f"an optimizer tells variables apart. Received: {optimizer.name}"
        )
    if optimizer.built:
        raise ValueError(
            "`mesh.optimizer` takes an optimizer that has not trained yet. Received one that is "
            f"built: {optimizer.name}"
        )
    if optimizer._distribution_strategy is not strategy:
        raise ValueError(
            "The optimizer was not made on the mesh: make it inside `with mesh.scope()`. "
            f"Received: {optimizer.name}"
        )
