"""A Switch layer in plain loops, to compare the real one with."""

import numpy as np


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def capacity(size, factor, num_experts, min_capacity):
    return max(min(size, int(size * factor / num_experts)), min_capacity)


def assign(probabilities, mask, num_selected, slots, priority="position", overflow="drop"):
    """Yields `(token, choice rank, expert, kept)` of one group, in order of service."""
    num_experts = probabilities.shape[-1]
    order = np.argsort(-probabilities, axis=-1, kind="stable")
    filled = np.zeros(num_experts, int)
    placed = np.zeros(len(probabilities), bool)
    stages = min(4, num_experts) if overflow == "reroute" else num_selected
    for stage in range(stages):
        tokens = [t for t in range(len(probabilities)) if mask[t]]
        if priority == "probability":
            tokens.sort(key=lambda t: -probabilities[t, order[t, stage]])
        for token in tokens:
            if overflow == "reroute" and placed[token]:
                continue
            expert = order[token, stage]
            kept = overflow == "dropless" or filled[expert] < slots
            filled[expert] += kept
            placed[token] |= kept
            yield token, stage, expert, kept


def switch_dense(layer, inputs, mask=None, factor=None):
    """What a float32 `SwitchDense` with ReLU gives outside training, group by group."""
    router, kernel_in, kernel_out = (
        np.asarray(weight, "float64")
        for weight in (layer.router.kernel, layer.kernel_in, layer.kernel_out)
    )
    shape, dim = inputs.shape[:-1], inputs.shape[-1]
    x = np.asarray(inputs, "float64").reshape(-1, dim)
    mask = np.ones(len(x), bool) if mask is None else np.asarray(mask, bool).reshape(-1)
    if layer.group_size == "row":
        size = len(x) // shape[0]
    elif layer.num_groups:
        size = -(-len(x) // layer.num_groups)
    else:
        size = min(layer.group_size or len(x), len(x))
    factor = factor or layer.eval_capacity_factor
    slots = layer.expert_capacity or capacity(size, factor, layer.num_experts, layer.min_capacity)
    outputs = np.zeros((len(x), kernel_out.shape[-1]))
    dropped = 0
    for start in range(0, len(x), size):
        rows, real = x[start : start + size], mask[start : start + size]
        p = softmax(rows @ router)
        top = np.sort(p, axis=-1)[:, ::-1][:, : layer.num_selected_experts]
        norm = top.sum(-1) if layer.num_selected_experts > 1 else np.ones(len(rows))
        args = (layer.num_selected_experts, slots, layer.priority, layer.overflow)
        served = np.zeros(len(rows), bool)
        for token, _, expert, kept in assign(p, real, *args):
            if kept:
                hidden = np.maximum(rows[token] @ kernel_in[expert], 0)
                gate = p[token, expert] / norm[token]
                outputs[start + token] += gate * (hidden @ kernel_out[expert])
                served[token] = True
        dropped += int((real & ~served).sum())
    return outputs.reshape(*shape, -1), dropped


def one_hot_dispatch(layer, x, slots):
    """The one-hot einsum formulation of one group, in `keras.ops`: differentiable."""
    from keras import ops

    p = ops.softmax(ops.matmul(x, layer.router.kernel), axis=-1)
    chosen = ops.one_hot(ops.argmax(p, axis=-1), layer.num_experts, dtype="float32")
    position = (ops.cumsum(chosen, axis=0) - chosen) * chosen
    kept = chosen * ops.cast(position < slots, "float32")
    slot = ops.one_hot(ops.cast(ops.sum(position, axis=-1), "int32"), slots, dtype="float32")
    dispatch = kept[:, :, None] * slot[:, None, :]
    combine = dispatch * ops.max(p, axis=-1)[:, None, None]
    hidden = ops.einsum("sec,sd,edf->ecf", dispatch, x, layer.kernel_in)
    y = ops.einsum("ecf,efd->ecd", ops.relu(hidden), layer.kernel_out)
    return ops.einsum("sec,ecd->sd", combine, y)
