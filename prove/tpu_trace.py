"""Traces Keras's own train step under the real `TPUStrategy`, and reads what it would do.

    python prove/tpu_trace.py

A traced step names what the strategy feeds to each core, and every exchange, the optimizer's
included. XLA may take a copy of a "mirrored" variable from any core: nothing that differs between
cores may be one.
"""

import collections

import tpu_stand_in  # isort: skip, sets Keras's backend
import keras
import tensorflow as tf
import tpu_cases
import tpu_facts
from tpu_theory import Theory
from tpu_theory import check

import keras_switch
from keras_switch.tpu.tensorflow.split_variable import SplitVariable


def traced(strategy, model, case):
    """The graph of the function that `fit` runs for a batch, of which each core has its rows."""
    rows = case.tokens[0] // tpu_cases.CORES
    inputs, mask, targets = (tf.constant(x[:rows]) for x in tpu_cases.data(case))

    @tf.function
    def step(data):
        return strategy.run(model.train_step, args=(data,))

    return step.get_concrete_function(((inputs, mask), targets)).graph


def feeds(graph):
    """Variables that the graph takes: (whether mirrored, times written) by the handle's id."""
    handles = {id(inner): id(outer) for outer, inner in graph.captures}
    return {
        handles[id(op.inputs[0])]: (
            op.get_attr("is_mirrored_variable"),
            sum(user.type == "AssignVariableOp" for user in op.outputs[0].consumers()),
        )
        for op in graph.get_operations()
        if op.type == "TPUReplicatedInput" and id(op.inputs[0]) in handles
    }


def check_feeds(model, graph, kept):
    """Checks that what is split is fed per core; returns how many variables that are."""
    fed = feeds(graph)
    optimizer = model.optimizer
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    count = 0
    for weight in model.trainable_variables:
        start = weight.path.replace("/", "_") + "_"
        slots = [v for v in optimizer.variables if v.name.startswith(start)]
        is_split = isinstance(weight, SplitVariable)
        if is_split:
            check(f"what the optimizer keeps for {weight.path}", len(slots), kept)
        for variable in (weight, *slots):
            handle = variable._value._packed_variable.packed_handle
            what = f"{variable.path}: whether mirrored, times written"
            check(what, fed.get(id(handle)), (not is_split, 1))
        count += is_split * (1 + kept)
    return count


def groups_of(op, number):
    return tuple(map(tuple, tf.get_static_value(op.inputs[number]).tolist()))


def seen(graph):
    """The exchanges and the sums of a graph, each with how often it is there."""
    exchanges, sums = collections.Counter(), collections.Counter()
    for op in graph.get_operations():
        if op.type in ("AllToAll", "CrossReplicaSum"):
            x = op.inputs[0]
            if op.type == "AllToAll":
                num_bytes = x.shape.num_elements() * x.dtype.size
                exchanges[x.dtype.name, num_bytes, groups_of(op, 1)] += 1
            else:
                sums[x.dtype.name, tuple(x.shape), groups_of(op, 1)] += 1
    return exchanges, sums


def main():
    keras_switch.tpu.highest_float32()
    print(f"TensorFlow {tf.__version__}, Keras {keras.__version__}, {tpu_cases.CORES} cores:\n")
    print("| program | optimizer | variables fed per core | AllToAll | CrossReplicaSum |")
    print("| --- | --- | --- | --- | --- |")
    for name in ("layer", "blocks", "replicated experts", "split width"):
        case = tpu_cases.CASES[f"{name}, bfloat16"]
        for make, kept in tpu_cases.OPTIMIZERS.items():
            strategy = tpu_stand_in.strategy(tpu_cases.CORES)
            mesh = keras_switch.tpu.Mesh(*case.mesh, devices=strategy)
            with mesh.scope():
                model = case.build(case.dtype)
                model.compile(mesh.optimizer(make()), "mse", jit_compile=False)
                model.optimizer.build(model.trainable_variables)
            graph = traced(strategy, model, case)
            count = check_feeds(model, graph, kept)
            exchanges, sums = seen(graph)
            theory = Theory(tpu_facts.facts(mesh, model, case))
            check("exchanges", exchanges, theory.exchanges())
            check("sums", sums, theory.gradient_sums() + theory.optimizer_sums(make.__name__))
            cells = name, make.__name__, count, exchanges.total(), sums.total()
            print("|", " | ".join(map(str, cells)), "|")


if __name__ == "__main__":
    main()
