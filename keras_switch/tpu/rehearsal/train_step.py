"""A model's train step on the JAX backend, of which nothing but shapes exists."""

import contextlib
import copy
import math
import typing

import jax
import keras

from keras_switch.layers import parallelism
from keras_switch.layers import scopes
from keras_switch.tpu.jax import sharding


class Program(typing.NamedTuple):
    """What is to be compiled.

    Attributes:
        model: dict. The model's serialized object, or a layer's.
        input_shape: Shape of a layer's input without the batch; `None` for a model.
        compile: dict. What `model.get_compile_config` gives.
        batch_size: int. Rows of a batch, of all cores.
        sequence_length: int, or dict of ints by input. The size of each axis that the model
            leaves open.
    """

    model: dict
    input_shape: typing.Any
    compile: dict
    batch_size: int
    sequence_length: typing.Any


class Step(typing.NamedTuple):
    """A train step and the shapes of its arguments.

    Attributes:
        model: `keras.Model` whose variables have no values.
        state: Shapes of weights, other variables, optimizer variables and metrics.
        data: Shapes of inputs and targets.
    """

    model: typing.Any
    state: tuple
    data: tuple

    @property
    def argument_bytes(self):
        """Bytes of one core's part of the arguments."""
        return sum(
            math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
            for x in leaves((self.state, self.data))
        )

    def lower(self):
        """Lowers the step for the devices of its shapes, as `fit` would run it."""
        shardings = jax.tree.map(lambda x: x.sharding, self.state)
        return self._trace((None, shardings)).lower()

    def matmul_flops(self):
        """Operations of the matrix products of the step, and those of its bfloat16 passes.

        A TPU does a product of float32 tensors in six passes over bfloat16 parts.
        """
        return matmul_flops(self._trace(None).jaxpr.jaxpr)

    def _trace(self, out_shardings):
        # What `keras_switch.tpu.connect` asks for: true float32 products.
        with jax.default_matmul_precision("highest"):
            step = jax.jit(self.model.train_step, donate_argnums=0, out_shardings=out_shardings)
            return step.trace(self.state, self.data)


class _OneCore(parallelism.Parallelism):
    """One core that makes the groups of several."""

    def __init__(self, num_cores):
        self._num_cores = num_cores

    def num_groups(self, num_groups):
        return num_groups or self._num_cores


def on_devices(program, layout, devices):
    """Makes the step of a mesh of devices.

    Args:
        program: `Program`.
        layout: `Layout`.
        devices: List of JAX devices, in the order of the cores.

    Returns:
        `Step`.

    Raises:
        ValueError: If the layout does not divide the model or the batch.
    """
    distribution = sharding.MeshDistribution(layout, devices)
    return _step(program, distribution, sharding.ShardedExperts(layout, devices))


def on_one_core(program, num_cores):
    """Makes the step of one core with the groups of `num_cores`: arguments as `on_devices`."""
    return _step(program, None, _OneCore(num_cores))


@contextlib.contextmanager
def abstract(distribution=None, experts=None):
    """Within it, variables get shapes and no values."""
    with (
        _distributed(distribution),
        parallelism.use(experts or parallelism.Parallelism()),
        scopes.without_values(),
    ):
        yield


@contextlib.contextmanager
def _distributed(distribution):
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(distribution)
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


def _step(program, distribution, experts):
    with abstract(distribution, experts):
        model = _model(program)
        if distribution is not None:
            # Slots are split as their weights are.
            for variable in model.variables:
                variable._layout = distribution.get_variable_layout(variable)
    # What counts steps and averages has values: an optimizer cannot be made without.
    with _distributed(None), parallelism.use(experts):
        model.compile(**keras.saving.deserialize_keras_object(copy.deepcopy(program.compile)))
    with abstract(distribution, experts):
        data = _data(model, program, distribution)
        model._symbolic_build(data_batch=data)
    variables = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    state = jax.tree.map(lambda x: _variable_shape(x, distribution), variables)
    return Step(model, state, data)


def _model(program):
    config = copy.deepcopy(program.model)  # Keras changes what it is given.
    model = keras.saving.deserialize_keras_object(config, safe_mode=False)
    if program.input_shape is None:
        return model
    inputs = keras.Input(program.input_shape)
    return keras.Model(inputs, model(inputs))


def _data(model, program, distribution):
    """Shapes of the inputs and of the targets."""

    def inputs(x):
        length = program.sequence_length
        length = length.get(x.name) if isinstance(length, dict) else length
        shape = (program.batch_size, *(length if size is None else size for size in x.shape[1:]))
        return _data_shape(shape, x.dtype, distribution)

    if not getattr(model, "inputs", None):
        raise ValueError(
            "The model must know its inputs: give a functional or a `Sequential` model. "
            f"Received: {type(model).__name__} {model.name!r}"
        )
    _check_lengths(model, program.sequence_length)
    sequential = isinstance(model, keras.Sequential)
    x = keras.tree.map_structure(inputs, model.inputs[0] if sequential else model.input)
    symbols = keras.tree.map_structure(lambda x: keras.KerasTensor(x.shape, x.dtype), x)
    outputs = model.compute_output_spec(symbols)
    losses = model.loss
    if not isinstance(losses, (dict, list, tuple)):
        losses = keras.tree.map_structure(lambda _: losses, outputs)

    def targets(output, loss):
        if _is_sparse(loss):
            return _data_shape(output.shape[:-1], "int32", distribution)
        return _data_shape(output.shape, "float32", distribution)

    return x, keras.tree.map_structure(targets, outputs, losses)


def _check_lengths(model, lengths):
    """Requires a length of each input that leaves an axis open, and of no other name."""
    if not isinstance(lengths, dict):
        return
    names = [x.name for x in model.inputs]
    missing = [x.name for x in model.inputs if None in x.shape[1:] and x.name not in lengths]
    unknown = [name for name in lengths if name not in names]
    if missing or unknown:
        raise ValueError(
            "`sequence_length` must be an integer, or have one for each input that leaves an axis "
            f"open. Missing: {missing}; no inputs: {unknown}. The inputs are {names}. "
            f"Received: sequence_length={lengths!r}"
        )


def leaves(tree):
    """The shapes in a nested structure of them."""
    return jax.tree.leaves(tree)


def _is_sparse(loss):
    """Whether the targets of a loss are ids of classes."""
    if isinstance(loss, keras.losses.SparseCategoricalCrossentropy):
        return True
    name = loss if isinstance(loss, str) else getattr(loss, "name", "")
    return "sparse_categorical" in name


def _data_shape(shape, dtype, distribution):
    layout = distribution and distribution.get_divided_layout(shape)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=layout and layout.backend_layout)


def _variable_shape(variable, distribution):
    layout = distribution and distribution.get_variable_layout(variable)
    return jax.ShapeDtypeStruct(
        variable.shape, variable.dtype, sharding=layout and layout.backend_layout
    )


def matmul_flops(jaxpr):
    """Counts the operations of the matrix products of a program.

    Args:
        jaxpr: `jax.extend.core.Jaxpr`.

    Returns:
        The operations, and those of all passes.
    """
    flops, passes = 0, 0
    for equation in jaxpr.eqns:
        own = _own_flops(equation)
        flops += own
        passes += own * _passes(equation) if own else 0
        inner = [matmul_flops(x) for x in _inner(equation.params)]
        if equation.primitive.name == "cond":
            inner = [max(inner)]
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        flops += times * sum(pair[0] for pair in inner)
        passes += times * sum(pair[1] for pair in inner)
    return flops, passes


def _inner(params):
    """The jaxprs in the parameters of an equation."""
    values = jax.tree.leaves(list(params.values()), is_leaf=lambda x: hasattr(x, "eqns"))
    return [getattr(x, "jaxpr", x) for x in values if hasattr(x, "eqns")]


def _own_flops(equation):
    output = math.prod(equation.outvars[0].aval.shape)
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2 * output * math.prod(left[axis] for axis in contracted)
    if equation.primitive.name.startswith("ragged_dot"):
        rows, inner = equation.invars[0].aval.shape[-2:]
        return 2 * rows * inner * equation.invars[1].aval.shape[-1]
    if equation.primitive.name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
        return 2 * output * math.prod(kernel) // features
    return 0


def _passes(equation):
    return 6 if equation.invars[0].aval.dtype == "float32" else 1
