"""Models on a mesh beside the same ones on one core, for the TensorFlow backend."""

import contextlib
import typing

import keras
import numpy as np
from keras import ops
from switch_helpers import make
from switch_helpers import tokens

from keras_switch.tpu import Mesh

IS_TENSORFLOW = keras.config.backend() == "tensorflow"
if IS_TENSORFLOW:
    import tensorflow as tf

EXPERTS = "batch:batch,experts:batch"
HIDDEN = f"{EXPERTS},expert_hidden:model"
OUTER = "outer_batch:outer,batch:inner,experts:inner"
ONE_CORE = None
MESHES = {
    "1": ("batch:1", EXPERTS),
    "2": ("batch:2", EXPERTS),
    "4": ("batch:4", EXPERTS),
    "8": ("batch:8", EXPERTS),
    "2 outer, 4 inner": ("outer:2,inner:4", OUTER),
    "2 outer, 2 inner": ("outer:2,inner:2", OUTER),
    "4x2": ("batch:4,model:2", HIDDEN),
    "2x2": ("batch:2,model:2", HIDDEN),
    "2x2x2": ("outer:2,inner:2,model:2", f"{OUTER},expert_hidden:model"),
    "experts whole": ("batch:2,model:2", "batch:batch,expert_hidden:model"),
}
SHAPE = (4, 6)
X, Y = tokens(320, *SHAPE), np.tanh(tokens(320, *SHAPE, seed=1)[..., :3])


class OneCore:
    """What a mesh is without any: everything as Keras has it."""

    def scope(self):
        return contextlib.nullcontext()

    def optimizer(self, optimizer):
        return optimizer


def mesh_of(name):
    """The mesh of this name in `MESHES`; `ONE_CORE` is none."""
    return OneCore() if name is ONE_CORE else Mesh(*MESHES[name])


def dense(units, number):
    return keras.layers.Dense(units, kernel_initializer=keras.initializers.GlorotUniform(number))


def switch(**kwargs):
    """A float32 Switch layer that can lie on any of the meshes."""
    kwargs = {"num_experts": 8, "intermediate_dim": 4, "num_groups": 8, "seed": 1} | kwargs
    return make(**kwargs)


def model(**kwargs):
    """A residual Switch layer between dense ones."""
    inputs = keras.Input(SHAPE)
    x = dense(SHAPE[-1], 1)(inputs)
    x = keras.layers.Add()([x, switch(name="switch", **kwargs)(x)])
    return keras.Model(inputs, dense(3, 2)(x))


def compiled(name, optimizer=None, build=model, loss="mse"):
    """A model on the mesh of this name, ready for `fit`.

    Args:
        name: string, a key of `MESHES`, or `ONE_CORE`.
        optimizer: Callable that makes an optimizer. Defaults to one of Adam.
        build: Callable that makes a model.
        loss: Loss of Keras.
    """
    mesh = mesh_of(name)
    with mesh.scope():
        made = build()
        optimizer = keras.optimizers.Adam(1e-2) if optimizer is None else optimizer()
        made.compile(mesh.optimizer(optimizer), loss)
    return made


class Run(typing.NamedTuple):
    """What is compared of a training run: numpy arrays by name."""

    history: dict
    weights: dict
    slots: dict


def fit(trained, x=X, y=Y, epochs=1, **kwargs):
    """Trains in order, 20 steps; returns the `Run`."""
    kwargs = {"batch_size": 16, "shuffle": False, "verbose": 0} | kwargs
    history = trained.fit(x, y, epochs=epochs, **kwargs).history
    return Run({name: np.array(x) for name, x in history.items()}, *state(trained))


def state(trained):
    """The values of the variables of a model and of its optimizer, by name."""
    return values(trained.variables), values(trained.optimizer.variables)


def values(variables):
    values = map(ops.convert_to_numpy, map(ops.convert_to_tensor, variables))
    return {f"{i} {v.path}": x for i, (v, x) in enumerate(zip(variables, values))}


def assert_same(ours, theirs, rtol=2e-5, atol=2e-6):
    """Compares nested structures of arrays, in their order: Keras numbers its names."""
    ours, theirs = _flat(ours), _flat(theirs)
    assert len(ours) == len(theirs), (list(ours), list(theirs))
    for path, value, expected in zip(ours, ours.values(), theirs.values()):
        np.testing.assert_allclose(value, expected, rtol, atol, err_msg=path)


def _flat(structure, path=""):
    if isinstance(structure, np.ndarray | float | int):
        return {path: structure}
    pairs = structure.items() if isinstance(structure, dict) else enumerate(structure)
    flat = {}
    for name, part in pairs:
        flat |= _flat(part, f"{path}/{name}")
    return flat


def stepper(trained):
    """Makes a function that computes a training step's results without an optimizer.

    Args:
        trained: Model, on a mesh or on one core.

    Returns:
        Function of lists of input and of target arrays. It returns the outputs, the loss and the
        whole gradient of each weight: what a core has counts for its slice, and sums otherwise.
    """
    strategy = trained.distribute_strategy
    cores = strategy.num_replicas_in_sync

    def on_a_core(inputs, target):
        with tf.GradientTape() as tape:
            outputs = trained(inputs, training=True)
            loss = tf.reduce_mean(tf.square(tf.cast(outputs, "float32") - target))
            loss = (loss + tf.add_n(trained.losses)) / cores
        weights = trained.trainable_variables
        return outputs, loss, [tf.convert_to_tensor(g) for g in tape.gradient(loss, weights)]

    run = tf.function(lambda inputs, target: strategy.run(on_a_core, args=(inputs, target)))

    def share(array):
        rows = len(array) // cores

        def own(context):
            first = context.replica_id_in_sync_group * rows
            return tf.constant(array[first : first + rows])

        return strategy.experimental_distribute_values_from_function(own)

    def step(inputs, target):
        inputs = [share(x) for x in inputs]
        outputs, loss, gradients = run(inputs if len(inputs) > 1 else inputs[0], share(target))
        outputs = np.concatenate([x.numpy() for x in strategy.experimental_local_results(outputs)])
        loss = sum(x.numpy() for x in strategy.experimental_local_results(loss))
        wholes = []
        for variable, gradient in zip(trained.trainable_variables, gradients):
            whole = np.zeros(variable.shape, "float32")
            places = [...] * cores
            if hasattr(variable, "split"):
                places = variable.split.slices(variable.shape)
            for place, part in zip(places, strategy.experimental_local_results(gradient)):
                whole[place] += part.numpy()
            wholes.append(whole)
        return outputs.astype("float32"), float(loss), wholes

    return step
