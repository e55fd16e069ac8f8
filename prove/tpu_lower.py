"""Lowers split models with the TPU build of TensorFlow, and computes them whole on the CPU.

    python prove/tpu_lower.py FOLDER

For each case of `tpu_cases.py` it writes a TPU program of eight replicas, the arguments of each
replica and what each replica must return, all computed by the same model on one core. A program
is a pure function of weights and inputs: forward, loss, backward and the sums of the gradients.
"""

import json
import pathlib
import sys

import tpu_stand_in  # isort: skip, sets Keras's backend
import keras
import numpy as np
import tensorflow as tf
import tpu_cases
import tpu_facts
from tensorflow.python.distribute import tpu_strategy

import keras_switch
from keras_switch.tpu.tensorflow.replica_optimizer import Sums
from keras_switch.tpu.tensorflow.split_variable import SplitVariable


def losses_and_gradients(model, weights, state, inputs, mask, targets):
    """The loss of the rows given and its gradients, as a pure function."""
    with tf.GradientTape() as tape:
        tape.watch([inputs, *weights])
        outputs, _, losses = model.stateless_call(
            weights, state, (inputs, mask), training=True, return_losses=True
        )
        error = tf.cast(outputs, tf.float32) - targets
        loss = tf.reduce_mean(tf.square(error)) + tf.add_n(losses)
    return loss, tape.gradient(loss, [inputs, *weights])


def replica_step(mesh, strategy, model, optimizer, structure):
    """What one core computes of flat arguments; the first of them is its number."""
    sums, cores = Sums(mesh.layout), mesh.layout.num_cores

    @tf.function(jit_compile=True)
    def step(*flat):
        core, weights, state, slots, *batch = tf.nest.pack_sequence_as(structure, flat)
        with tpu_strategy._TPUReplicaContext(strategy, core):
            loss, gradients = losses_and_gradients(model, weights, state, *batch)
            d_inputs, *gradients = gradients
            gradients = sums.gradients(gradients, model.trainable_variables)
            results = [sums.all(loss) / cores, d_inputs]
            gradients = [g / cores for g in gradients]
            if optimizer is None:
                return results + gradients
            weights, slots = optimizer.stateless_apply(slots, gradients, weights)
            return results + weights + slots

    return step


def per_core(variable, whole):
    """Each core's part of what has the shape of a variable."""
    if isinstance(variable, SplitVariable):
        return np.stack([whole[place] for place in variable.split.slices(whole.shape)])
    return np.stack([whole] * tpu_cases.CORES)


def rows(whole):
    """Each core's rows of a batch."""
    return whole.reshape(tpu_cases.CORES, -1, *whole.shape[1:])


def slot_values(optimizer):
    """Values for what an optimizer keeps, as it may be before the fourth step."""
    rng = np.random.default_rng(7)
    special = {id(optimizer.iterations): np.int64(3)}
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    special[id(inner.iterations)] = np.int64(3)
    return [
        special.get(id(v), v.numpy() if v.shape == () else rng.uniform(0.5, 1.5, v.shape))
        for v in optimizer.variables
    ]


def arguments(model, optimizer, batch):
    """All arguments of a step, each with a leading axis of cores."""
    split = [
        [per_core(v, v.numpy()) for v in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    ]
    slots = []
    if optimizer is not None:
        pairs = zip(optimizer.variables, slot_values(optimizer))
        slots = [per_core(v, np.asarray(value).astype(v.dtype)) for v, value in pairs]
    cores = np.arange(tpu_cases.CORES, dtype="int32")
    return [cores, *split, slots, *map(rows, batch)]


def expected(whole, model, optimizers, batch):
    """What each core must return, from one core's model with the same weights."""
    variables = whole.trainable_variables, whole.non_trainable_variables
    values = [[tf.convert_to_tensor(v) for v in group] for group in variables]
    batch = [tf.constant(x) for x in batch]
    loss, (d_inputs, *gradients) = losses_and_gradients(whole, *values, *batch)
    # A core's loss is the mean of its own rows.
    results = {
        "loss": np.stack([loss.numpy()] * tpu_cases.CORES),
        "inputs": rows(d_inputs.numpy()) * tpu_cases.CORES,
    }
    optimizer, whole_optimizer = optimizers
    split, after = model.trainable_variables, gradients
    if optimizer is not None:
        whole_optimizer.build(whole.trainable_variables)
        for variable, value in zip(whole_optimizer.variables, slot_values(whole_optimizer)):
            variable.assign(value)
        whole_optimizer.apply(gradients, whole.trainable_variables)
        split = [*split, *optimizer.variables]
        after = [*whole.trainable_variables, *whole_optimizer.variables]
    for variable, value in zip(split, after, strict=True):
        results[variable.path] = per_core(variable, tf.convert_to_tensor(value).numpy())
    return results


def lower(case, folder):
    keras.utils.clear_session()
    strategy = tpu_stand_in.strategy(tpu_cases.CORES)
    mesh = keras_switch.tpu.Mesh(*case.mesh, devices=strategy)
    make = case.optimizer or (lambda: None)
    optimizers = [None, make()]
    with mesh.scope():
        model = case.build(case.dtype)
        if case.optimizer:
            optimizers[0] = mesh.optimizer(make())
            optimizers[0].build(model.trainable_variables)
    args = arguments(model, optimizers[0], tpu_cases.data(case))
    flat = tf.nest.flatten(args)
    specs = [tf.TensorSpec(x.shape[1:], x.dtype) for x in flat]
    step = replica_step(mesh, strategy, model, optimizers[0], args)
    program = step.experimental_get_compiler_ir(*specs)(stage="hlo_serialized", platform_name="TPU")
    folder.mkdir(parents=True)
    (folder / "program.hlo").write_bytes(program)
    (folder / "facts.json").write_text(json.dumps(tpu_facts.facts(mesh, model, case)))
    if case.runs:
        np.savez(folder / "arguments.npz", **{str(i): x for i, x in enumerate(flat)})
        whole = expected(mesh.whole(model), model, optimizers, tpu_cases.data(case))
        np.savez(folder / "expected.npz", **whole)
    print(f"{folder.name}: {len(program):,} bytes of TPU program")


def main(folder):
    keras_switch.tpu.highest_float32()
    for name, case in tpu_cases.CASES.items():
        lower(case, pathlib.Path(folder) / name)


if __name__ == "__main__":
    main(sys.argv[1])
