"""Runs Hugging Face's sparse MLP on random cases and saves weights, inputs and outputs.

python prove/huggingface_reference.py CASES.npz      (needs torch and transformers)
"""

import sys

import numpy as np
import torch
from transformers.models.switch_transformers import modeling_switch_transformers as hf

# Batch, length, width, hidden width, experts, capacity.
CASES = [(3, 20, 8, 16, 4, 20), (3, 20, 8, 16, 4, 3), (2, 33, 12, 24, 8, 64), (4, 50, 6, 10, 3, 5)]


def run(batch, length, dim, hidden_dim, num_experts, capacity, seed):
    torch.manual_seed(seed)
    config = hf.SwitchTransformersConfig(
        d_model=dim,
        d_ff=hidden_dim,
        num_experts=num_experts,
        expert_capacity=capacity,
        dropout_rate=0.0,
    )
    layer = hf.SwitchTransformersSparseMLP(config).eval()
    for weight in layer.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    inputs = torch.randn(batch, length, dim, requires_grad=True)
    outputs = layer(inputs)
    (outputs * torch.cos(torch.arange(outputs.numel()).reshape(outputs.shape))).sum().backward()

    def stacked(name, gradient):
        weights = [getattr(layer.experts[f"expert_{e}"], name).weight for e in range(num_experts)]
        weights = [torch.zeros_like(w) if gradient and w.grad is None else w for w in weights]
        return torch.stack([w.grad.T if gradient and w.grad is not None else w.T for w in weights])

    router = layer.router.classifier.weight
    arrays = {
        "capacity": torch.tensor(capacity),
        "inputs": inputs,
        "outputs": outputs,
        "router": router.T,
        "kernel_in": stacked("wi", False),
        "kernel_out": stacked("wo", False),
        "d_inputs": inputs.grad,
        "d_router": router.grad.T,
        "d_kernel_in": stacked("wi", True),
        "d_kernel_out": stacked("wo", True),
    }
    return {name: tensor.detach().numpy() for name, tensor in arrays.items()}


if __name__ == "__main__":
    saved = {}
    for index, case in enumerate(CASES):
        saved.update({f"{index}/{name}": x for name, x in run(*case, seed=index).items()})
    np.savez(sys.argv[1], **saved)
