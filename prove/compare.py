"""Compares SwitchDense with what a peer's package gave.

PYTHONPATH=tests python prove/compare.py huggingface CASES.npz
PYTHONPATH=tests python prove/compare.py mesh CASES.npz
"""

import sys

import numpy as np
from gradients import layer_gradients
from keras import ops

from keras_switch.layers import SwitchDense
from keras_switch.layers import placement
from keras_switch.layers import routing


def cases(path):
    saved = np.load(path)
    for index in sorted({int(key.split("/")[0]) for key in saved}):
        yield {k.split("/")[1]: saved[k] for k in saved if k.startswith(f"{index}/")}


def close(name, ours, theirs):
    error = np.abs(np.asarray(ours) - theirs).max()
    print(f"{name}: largest difference {error:.1e}")
    if not error < 1e-4:
        sys.exit(f"{name} differs.")


def compare_huggingface(index, case):
    num_experts, dim, hidden_dim = case["kernel_in"].shape
    capacity = int(case["capacity"])
    layer = SwitchDense(
        num_experts, hidden_dim, dtype="float32", group_size="row", expert_capacity=capacity
    )
    layer.build(case["inputs"].shape)
    layer.router.kernel.assign(case["router"])
    layer.kernel_in.assign(case["kernel_in"])
    layer.kernel_out.assign(case["kernel_out"])
    outputs = layer(case["inputs"])
    dropped = (np.asarray(outputs) == 0).all(-1).mean()
    print(f"Case {index}: {num_experts} experts, capacity {capacity}, {dropped:.0%} dropped")
    close("outputs", outputs, case["outputs"])
    weight = np.cos(np.arange(case["outputs"].size)).reshape(case["outputs"].shape)
    weight = weight.astype("float32")
    _, gradients = layer_gradients(layer, lambda x: ops.sum(layer(x) * weight), case["inputs"])
    paths = [variable.path.split("/")[-2:] for variable in layer.trainable_variables]
    names = ["router" if "router" in path else path[-1] for path in paths]
    for name, gradient in zip(["inputs", *names], gradients):
        close(f"gradient of {name}", gradient, case[f"d_{name}"])


def compare_mesh(index, case):
    groups, size, dim = case["inputs"].shape
    num_experts, capacity = case["router"].shape[1], int(case["capacity"])
    layer = SwitchDense(num_experts, 4, dtype="float32", group_size=size, expert_capacity=capacity)
    layer.build((None, size, dim))
    layer.router.kernel.assign(case["router"])
    record = layer.route(case["inputs"])
    mask = ops.ones((groups, size))
    plan = placement.plan(record.experts, ops.cast(mask, "bool"), num_experts, capacity)
    slots = ops.convert_to_numpy(plan.slots_GKS)[:, 0]
    ours = np.eye(num_experts * capacity + 1)[slots][..., :-1]
    ours = ours.reshape(groups, size, num_experts, capacity)
    dropped = (slots < 0).mean()
    print(f"Case {index}: {num_experts} experts, capacity {capacity}, {dropped:.0%} dropped")
    close("dispatch", ours, case["dispatch"])
    gates = ops.convert_to_numpy(record.gates)[..., None]
    close("combine", ours * gates, case["combine"])
    loss = routing.balance_loss(record.probabilities, record.experts[..., 0], mask)
    close("balance loss", ops.mean(loss), case["loss"])


if __name__ == "__main__":
    compare = {"huggingface": compare_huggingface, "mesh": compare_mesh}[sys.argv[1]]
    for number, one in enumerate(cases(sys.argv[2])):
        compare(number, one)
    print(f"Equal to {sys.argv[1]}.")
