"""Keras's optimizers on the replicas of a TensorFlow strategy, where weights are split.

Keras's own TensorFlow optimizers clip and accumulate gradients before they sum them over the
replicas, and sum those of different slices. Here a step is the pure function that Keras has for
JAX, `stateless_apply`: each replica sums gradients over the cores that hold the same slice and
computes new values of its slices, with norms completed over all; then all is written at once.
"""

import keras
import tensorflow as tf
from keras import ops

from keras_switch.private.keras import BaseOptimizer
from keras_switch.private.keras import in_stateless_scope
from keras_switch.tpu.tensorflow import exchange
from keras_switch.tpu.tensorflow.split_variable import SplitVariable


class Sums:
    """Sums over the cores of a mesh, inside a replica."""

    def __init__(self, layout):
        self._layout = layout

    def gradients(self, gradients, variables):
        """Sums each gradient over every axis that does not split its variable."""
        axes = [set(self._layout.axes) - set(split_axes(variable)) for variable in variables]
        return self._over(axes, [tf.convert_to_tensor(gradient) for gradient in gradients])

    def slices(self, values, variables):
        """Sums each value over every axis that splits its variable."""
        return self._over([set(split_axes(variable)) for variable in variables], values)

    def all(self, value):
        return exchange.all_sum([value], self._layout.groups(self._layout.axes))[0]

    def _over(self, axes, values):
        sums = list(values)
        for kind in dict.fromkeys(map(frozenset, axes)):
            places = [place for place, names in enumerate(axes) if names == kind]
            summed = exchange.all_sum([sums[i] for i in places], self._layout.groups(kind))
            for place, value in zip(places, summed):
                sums[place] = value
        return sums


def split_axes(variable):
    """The mesh axes that split a variable."""
    if not isinstance(variable, SplitVariable):
        return ()
    return tuple(axis for axis in variable.split.axes if axis)


def _assign(variable, value):
    variable.assign(value)


class ReplicaOptimizer(keras.optimizers.Optimizer):
    """Stands between an optimizer's own class and Keras's TensorFlow code: see `optimizers.wrap`.

    Attributes:
        _strategy: `tf.distribute.Strategy`.
        _sums: `Sums`.
    """

    # What Keras's TensorFlow code overrides, as it was before.
    stateless_apply = BaseOptimizer.stateless_apply
    assign = BaseOptimizer.assign
    assign_add = BaseOptimizer.assign_add
    assign_sub = BaseOptimizer.assign_sub
    _var_key = BaseOptimizer._var_key
    _apply_weight_decay = BaseOptimizer._apply_weight_decay
    _backend_update_step = BaseOptimizer._backend_update_step
    _overwrite_model_variables_with_average_value = (
        BaseOptimizer._overwrite_model_variables_with_average_value
    )

    def _overwrite_variable_with_gradient(self, variable):
        return not isinstance(variable, SplitVariable) and variable.overwrite_with_gradient

    def add_variable_from_reference(self, reference_variable, name=None, initializer="zeros"):
        if not isinstance(reference_variable, SplitVariable):
            return super().add_variable_from_reference(reference_variable, name, initializer)
        return self.add_slice(
            reference_variable, name, range(len(reference_variable.shape)), initializer
        )

    def add_slice(self, variable, name, kept, initializer="zeros", dtype=None):
        """Adds a variable that is split like axes `kept` of another one."""
        with keras.name_scope(self.name, caller=self):
            slot = SplitVariable(
                variable.split.keep(kept),
                keras.initializers.get(initializer),
                shape=[variable.shape[axis] for axis in kept],
                dtype=dtype or variable.dtype,
                trainable=False,
                name=f"{variable.path.replace('/', '_')}_{name}",
            )
        self._track_variable(slot)
        return slot

    def apply(self, grads, trainable_variables=None):
        if in_stateless_scope():
            return super().apply(grads, trainable_variables)
        variables = self._trainable_variables
        if not self.built or tf.distribute.in_cross_replica_context():
            raise ValueError(
                "A mesh's optimizer applies gradients inside a replica, after "
                "`optimizer.build(model.trainable_variables)`: train with `fit`, or call "
                f"`strategy.run`. Received: built={self.built}"
            )
        given = dict(zip(map(id, trainable_variables or variables), grads))
        self._check_variables_are_known(trainable_variables or variables)
        grads = self._reduce([given.get(id(variable)) for variable in variables], variables)
        state = [*variables, *self.variables]
        before = [tf.convert_to_tensor(variable) for variable in state]
        values, slots = before[: len(variables)], before[len(variables) :]
        values, slots = self.stateless_apply(slots, grads, values)
        self._write(state, before, [*values, *slots])

    def _reduce(self, grads, variables):
        pairs = [(g, v) for g, v in zip(grads, variables) if g is not None]
        sums = iter(self._sums.gradients(*zip(*pairs)) if pairs else ())
        return [None if g is None else next(sums) for g in grads]

    def _write(self, variables, before, after):
        """Assigns what has changed, in all replicas at once."""
        changes = zip(variables, before, after)
        changes = [(variable._value, new) for variable, old, new in changes if new is not old]

        def write(strategy, values):
            for (variable, _), value in zip(changes, values):
                strategy.extended.update(variable, _assign, args=(value,), group=False)

        values = [value for _, value in changes]
        tf.distribute.get_replica_context().merge_call(write, args=(values,))

    def _backend_apply_gradients(self, grads, trainable_variables):
        steps = self.gradient_accumulation_steps
        if not steps:
            self._clip_and_update(grads, trainable_variables)
        else:
            self._accumulate(grads, trainable_variables, steps)
        if self.use_ema:
            self._average_weights()

    def _accumulate(self, grads, variables, steps):
        is_last = (self._iterations + 1) % steps == 0
        sums = [self._accumulated_gradients[self._get_variable_index(v)] for v in variables]
        totals = [g + total for g, total in zip(grads, sums)]
        state = [*variables, *self.variables]
        before = [v.value for v in state]
        self._clip_and_update([total / steps for total in totals], variables)
        for variable, old in zip(state, before):
            if variable.value is not old:
                variable.assign(ops.where(is_last, variable.value, old))
        for variable, total in zip(sums, totals):
            variable.assign(ops.where(is_last, ops.zeros_like(total), total))

    def _clip_and_update(self, grads, variables):
        grads = self._clip(grads, variables)
        self._apply_weight_decay(variables)
        self._backend_update_step(grads, variables, self.learning_rate)

    def _clip(self, grads, variables):
        if not (self.clipnorm or self.global_clipnorm):
            return self._clip_gradients(grads)
        squares = self._sums.slices([tf.reduce_sum(tf.square(g)) for g in grads], variables)
        if self.clipnorm:
            norms = [tf.maximum(tf.sqrt(x), self.clipnorm) for x in squares]
            return [g * self.clipnorm / norm for g, norm in zip(grads, norms)]
        norm = tf.sqrt(tf.add_n(squares))
        # An infinite norm makes everything NaN, as in Keras.
        scale = self.global_clipnorm / tf.maximum(norm, self.global_clipnorm) + (norm - norm)
        return [g * scale for g in grads]

    def _average_weights(self):
        self._update_model_variables_moving_average(self._trainable_variables)
        if self.ema_overwrite_frequency:
            overwrites = (self.iterations + 1) % self.ema_overwrite_frequency == 0
            pairs = zip(self._trainable_variables, self._model_variables_moving_average)
            for variable, average in pairs:
                variable.assign(ops.where(overwrites, average.value, variable.value))
