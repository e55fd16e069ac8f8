"""On which mesh a model lies. Keras knows one distribution of the process; models lie on several.

A model lies where its variables lie. Its methods run with the distribution of its mesh, and those
of a model on no mesh without one.
"""

import contextlib
import functools

import keras

from keras_switch.private.jax import distribution_lib
from keras_switch.tpu import calls
from keras_switch.tpu.jax.sharding import Cores
from keras_switch.tpu.jax.sharding import MeshDistribution
from keras_switch.tpu.jax.sharding import ShardedExperts


@contextlib.contextmanager
def at_home(call):
    """Within it, Keras's distribution and the layers' parallelism are those of the model's mesh."""
    model = call.model
    shards = _shards(model)
    if shards is not None:
        for variable in _variables(model):
            _move(variable, shards.distribution)
        with shards.scope():
            yield
    elif _variables(model) and isinstance(keras.distribution.distribution(), MeshDistribution):
        with without_distribution():
            yield
    else:
        yield


@contextlib.contextmanager
def without_distribution():
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


def _shards(model):
    """The `Shards` of the mesh that the model lies on, `None` if it lies on none."""
    found = {id(variable): _owner(variable) for variable in _variables(model)}
    meshes = {shards.distribution: shards for shards in found.values() if shards}
    if len(meshes) > 1:
        raise ValueError(
            "A model, its optimizer and its metrics lie on one mesh: make them in the scope of the "
            f"same one. Received: {model.name} on {' and '.join(map(repr, meshes))}"
        )
    if meshes:
        weights = model.variables
        if weights and not any(found[id(variable)] for variable in weights):
            raise ValueError(
                "The optimizer or the metrics were made on a mesh and the model was not: make and "
                f"compile it in the same scope, or in none. Received: {model.name}"
            )
        return next(iter(meshes.values()))
    # Layers that are not built yet.
    experts = (getattr(layer, "parallelism", None) for layer in model._flatten_layers())
    return next((x.cores.owner for x in experts if isinstance(x, ShardedExperts)), None)


def _variables(model):
    optimizer = getattr(model, "optimizer", None)
    slots = [] if optimizer is None else optimizer.variables
    return [*model.variables, *slots, *model.metrics_variables]


def _owner(variable):
    cores = getattr(variable._layout, "device_mesh", None)
    return cores.owner if isinstance(cores, Cores) else None


def _move(variable, distribution):
    """Moves a variable that was made outside the scope to the mesh."""
    if variable._layout is None:
        variable._layout = distribution.get_variable_layout(variable)
        if variable._value is not None:
            variable.assign(variable._value)


@functools.cache
def place_each_batch():
    """Makes Keras ask a mesh where to put each batch to evaluate, and not the first one only."""
    place = distribution_lib.distribute_data_input

    def placed(batch, layout, batch_dim_name):
        distribution = keras.distribution.distribution()
        is_evaluated = batch is not None and calls.current().evaluates
        if is_evaluated and isinstance(distribution, MeshDistribution):
            layout = distribution.get_data_layout(batch.shape)
        return place(batch, layout, batch_dim_name)

    distribution_lib.distribute_data_input = placed
