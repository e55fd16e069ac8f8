"""Times Hugging Face's sparse MLP on PyTorch. A worker of `layer.py`.

It sees the shapes of the Keras contenders and as many threads. Capacity is per row, as
Hugging Face counts it. The balance loss is left out: another part of its model adds it.
"""

import contextlib
import copy
import functools
import os
import time

import torch
import transformers
import worker
from transformers.models.switch_transformers import modeling_switch_transformers as hf

ROWS, LENGTH, DIM, HIDDEN = 8, 512, 256, 1024
STEPS = {}


@functools.cache
def contender(num_experts):
    torch.manual_seed(0)
    config = hf.SwitchTransformersConfig(
        d_model=DIM,
        d_ff=HIDDEN,
        num_experts=num_experts,
        expert_capacity=int(LENGTH * 1.25 / num_experts),
        dropout_rate=0.0,
    )
    layer = hf.SwitchTransformersSparseMLP(config)
    # A router as trained: every expert takes about as many tokens as any other.
    torch.nn.init.normal_(layer.router.classifier.weight, std=0.1)
    return layer, torch.randn(ROWS, LENGTH, DIM)


def versions():
    return {"torch": torch.__version__, "transformers": transformers.__version__}


def prepare(num_experts, dtype, train):
    """Warms up the steps of a row, and returns their names."""
    STEPS.clear()
    layer, inputs = contender(num_experts)
    if dtype == "float32":
        STEPS["huggingface"] = make_step(layer, inputs, train)
    else:
        # Computes in bfloat16 with float32 variables, too.
        scope = functools.partial(torch.autocast, "cpu", torch.bfloat16)
        inputs = inputs.bfloat16()
        STEPS["huggingface"] = make_step(layer, inputs, train, scope)
        STEPS["hf_bfloat16"] = make_step(copy.deepcopy(layer).bfloat16(), inputs, train)
    for step in STEPS.values():
        step()
        step()
    return list(STEPS)


def make_step(layer, inputs, train, scope=contextlib.nullcontext):
    """Returns a function that infers, or one that trains up to the gradients."""
    layer.train(train)
    inputs = inputs.detach().requires_grad_(train)

    def step():
        layer.zero_grad()
        inputs.grad = None
        with torch.set_grad_enabled(train), scope():
            # The router multiplies what it is given in place.
            outputs = layer(inputs.clone())
        if train:
            outputs.float().square().mean().backward()

    return step


def seconds(name):
    """How long one step takes."""
    start = time.perf_counter()
    STEPS[name]()
    return time.perf_counter() - start


if __name__ == "__main__":
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    worker.answer({function.__name__: function for function in (versions, prepare, seconds)})
