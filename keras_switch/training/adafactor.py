"""T5's Adafactor, which treats every expert's matrix as a weight of its own."""

import keras
from keras import ops

from keras_switch import checks
from keras_switch.training.schedules import RelativeStep


@keras.saving.register_keras_serializable(package="keras_switch")
class Adafactor(keras.optimizers.Optimizer):
    """Adafactor by T5's rules, with the statistics of each expert apart.

    The last two axes of a weight are a matrix; the axes before them count matrices. A weight
    `(E, D, F)` is updated as `E` weights `(D, F)` would be. For a gradient `g` at step `t`

        v = decay v + (1 - decay) (g^2 + epsilon_1),  decay = 1 - t^-decay_exponent
        u = g / sqrt(v)
        u = u / max(1, RMS(u) / clipping_threshold)
        weight = weight - learning_rate max(epsilon_2, RMS(weight)) u

    where each RMS is that of one matrix. If a matrix is large in both directions, `v` is not
    kept: it is the product of its means over rows and over columns, `(E, D)` and `(E, F)`
    numbers. Vectors and scalars are one matrix each. Statistics are float32 at least.

    Args:
        learning_rate: float, `LearningRateSchedule` or callable. `None` is `RelativeStep()`,
            which T5 was trained with.
        decay_exponent: float, positive. How fast the memory of `v` grows with the step.
        beta_1: float in [0, 1), the decay of a running mean of the updates, which takes as
            much memory as the weights. `None` for none.
        clipping_threshold: float. The largest RMS of an update before the learning rate;
            `None` for no limit.
        multiply_by_parameter_scale: bool. Whether the learning rate is relative to a matrix's
            RMS.
        min_dim_size_to_factor: int. The smallest size of each axis of a matrix whose `v` is
            kept as means.
        epsilon_1: float, positive. Keeps `v` away from zero.
        epsilon_2: float. The least RMS that a matrix is taken to have.
        **kwargs: Arguments of every Keras optimizer, such as `weight_decay` and `clipnorm`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
    >>> layer = keras_switch.layers.SwitchDense(4, 256)
    >>> layer.build((None, 8, 128))
    >>> optimizer = Adafactor()
    >>> optimizer.build([layer.kernel_in])
    >>> [tuple(variable.shape) for variable in optimizer.variables[1:]]
    [(4, 128), (4, 256)]

    Reference:
    - [Shazeer and Stern, 2018](https://arxiv.org/abs/1804.04235), algorithms 4 and 5
    """

    def __init__(
        self,
        learning_rate=None,
        decay_exponent=0.8,
        beta_1=None,
        clipping_threshold=1.0,
        multiply_by_parameter_scale=True,
        min_dim_size_to_factor=128,
        epsilon_1=1e-30,
        epsilon_2=1e-3,
        **kwargs,
    ):
        decay_exponent = checks.check_positive_number("decay_exponent", decay_exponent)
        if beta_1 is not None:
            beta_1 = checks.check_number("beta_1", beta_1, 0, 1)
        if clipping_threshold is not None:
            clipping_threshold = checks.check_positive_number(
                "clipping_threshold", clipping_threshold
            )
        multiply_by_parameter_scale = checks.check_bool(
            "multiply_by_parameter_scale", multiply_by_parameter_scale
        )
        min_dim_size_to_factor = checks.check_positive_integer(
            "min_dim_size_to_factor", min_dim_size_to_factor
        )
        epsilon_1 = checks.check_positive_number("epsilon_1", epsilon_1)
        epsilon_2 = checks.check_number("epsilon_2", epsilon_2, 0)
        super().__init__(RelativeStep() if learning_rate is None else learning_rate, **kwargs)
        self.decay_exponent = decay_exponent
        self.beta_1 = beta_1
        self.clipping_threshold = clipping_threshold
        self.multiply_by_parameter_scale = multiply_by_parameter_scale
        self.min_dim_size_to_factor = min_dim_size_to_factor
        self.epsilon_1 = epsilon_1
        self.epsilon_2 = epsilon_2

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._slots = [self._add_slots(variable) for variable in variables]

    def _add_slots(self, variable):
        """Returns the slots of a weight by name."""
        slots = {}
        if self._overwrite_variable_with_gradient(variable):
            return slots
        axes = tuple(range(len(variable.shape)))
        if self._is_factored(variable):
            *leading, row, column = axes
            slots["row"] = self._add_slot(variable, "row", (*leading, row))
            slots["column"] = self._add_slot(variable, "column", (*leading, column))
        else:
            slots["second_moment"] = self._add_slot(variable, "second_moment", axes)
        if self.beta_1:
            slots["first_moment"] = self._add_slot(variable, "first_moment", axes)
        return slots

    def _is_factored(self, variable):
        matrix = tuple(variable.shape)[-2:]
        return len(matrix) == 2 and min(matrix) >= self.min_dim_size_to_factor

    def _add_slot(self, variable, name, axes):
        """Adds what is kept for a weight. Every statistic comes from here.

        Args:
            variable: The weight, as given to `build`.
            name: string.
            axes: Tuple of ints. The axes of the weight that the slot has.

        Returns:
            `keras.Variable` of zeros, split as these axes of the weight are.
        """
        layout = getattr(variable, "_layout", None)
        if isinstance(layout, keras.distribution.TensorLayout):
            kept = tuple(layout.axes[axis] for axis in axes)
            layout = keras.distribution.TensorLayout(kept, layout.device_mesh)
        path = getattr(variable, "path", variable.name).replace("/", "_").replace(":", "_")
        return self.add_variable(
            shape=tuple(variable.shape[axis] for axis in axes),
            dtype=_dtype(variable),
            layout=layout,
            name=f"{path}_{name}",
        )

    def _mean(self, x, axes, variable):
        """Averages over axes of a weight. Every mean comes from here.

        Args:
            x: Tensor with the axes of the weight, or of the caller's slice of it; an axis
                that was averaged before has size one.
            axes: Tuple of ints, negative. The axes of the weight to average over.
            variable: The weight, as given to `build`.

        Returns:
            Tensor in which these axes have size one.
        """
        return ops.mean(x, axis=axes, keepdims=True)

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        weight, slots = self._trainable_variables[index], self._slots[index]
        dtype = _dtype(weight)
        # Adding zero makes the sparse gradient of an embedding dense.
        gradient = ops.cast(ops.add(gradient, 0.0), dtype)
        rate = ops.cast(learning_rate, dtype)
        if self.multiply_by_parameter_scale:
            scale = self._rms(ops.cast(variable, dtype), weight)
            rate = rate * ops.maximum(scale, self.epsilon_2)
        update = self._divide_by_root(gradient, weight, slots)
        if self.clipping_threshold is not None:
            excess = self._rms(update, weight) / self.clipping_threshold
            update = update / ops.maximum(excess, 1.0)
        update = rate * update
        if "first_moment" in slots:
            update = self._average(slots["first_moment"], update, self.beta_1)
        self.assign_sub(variable, update)

    def _divide_by_root(self, gradient, weight, slots):
        """Divides the gradient by the root of its second moment, which it updates."""
        step = ops.cast(ops.add(self.iterations, 1), gradient.dtype)
        decay = 1.0 - ops.power(step, -self.decay_exponent)
        squared = ops.square(gradient) + self.epsilon_1
        if "second_moment" in slots:
            return gradient * ops.rsqrt(self._average(slots["second_moment"], squared, decay))
        row = self._average_of_means(slots["row"], squared, -1, weight, decay)
        column = self._average_of_means(slots["column"], squared, -2, weight, decay)
        row = row / self._mean(row, (-2,), weight)
        return gradient * ops.rsqrt(row) * ops.rsqrt(column)

    def _average_of_means(self, slot, squared, axis, weight, decay):
        mean = ops.squeeze(self._mean(squared, (axis,), weight), axis)
        return ops.expand_dims(self._average(slot, mean, decay), axis)

    def _average(self, slot, value, decay):
        """Moves a running mean on; returns its new value."""
        value = ops.multiply(decay, slot) + (1.0 - decay) * value
        self.assign(slot, value)
        return value

    def _rms(self, x, weight):
        axes = tuple(range(-min(len(weight.shape), 2), 0))
        return ops.sqrt(self._mean(ops.square(x), axes, weight))

    def get_config(self):
        return {
            **super().get_config(),
            "decay_exponent": self.decay_exponent,
            "beta_1": self.beta_1,
            "clipping_threshold": self.clipping_threshold,
            "multiply_by_parameter_scale": self.multiply_by_parameter_scale,
            "min_dim_size_to_factor": self.min_dim_size_to_factor,
            "epsilon_1": self.epsilon_1,
            "epsilon_2": self.epsilon_2,
        }


def _dtype(variable):
    """The dtype of a weight's statistics: float32, or float64 if the weight is."""
    return keras.backend.result_type(variable.dtype, "float32")
