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


def expert_choice(probabilities, mask, slots):
    """Yields what `assign` does where experts choose: each takes its likeliest real tokens."""
    real = np.flatnonzero(mask)
    for expert, likelihood in enumerate(probabilities.T):
        for token in real[np.argsort(-likelihood[real], kind="stable")][:slots]:
            yield token, expert, expert, True


def _service(layer, probabilities, mask, slots):
    if layer.routing == "expert_choice":
        return expert_choice(probabilities, mask, slots)
    args = (layer.num_selected_experts, slots, layer.priority, layer.overflow)
    return assign(probabilities, mask, *args)


def _factor(layer):
    """The capacity factor outside training."""
    chosen = layer.routing == "expert_choice"
    return layer.capacity_factor if chosen else layer.eval_capacity_factor


def assignments(layer, inputs, mask=None):
    """Which experts serve which token outside training: `(tokens, E)` of ones and zeros."""
    router = np.asarray(layer.router.kernel, "float64")
    x = np.asarray(inputs, "float64").reshape(-1, inputs.shape[-1])
    mask = np.ones(len(x), bool) if mask is None else np.asarray(mask, bool).reshape(-1)
    size, slots = _group_size_and_slots(layer, inputs.shape, _factor(layer))
    served = np.zeros((len(x), layer.num_experts), "float32")
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        p = softmax(x[part] @ router)
        for token, _, expert, kept in _service(layer, p, mask[part], slots):
            served[start + token, expert] += kept
    return served


def all_experts(layer, x, served):
    """Every expert on every token, of which `served` are summed: differentiable."""
    from keras import ops

    rows = ops.reshape(x, (-1, x.shape[-1]))
    p = ops.exp(ops.log_softmax(ops.matmul(rows, layer.router.kernel), axis=-1))
    gates = p
    if layer.num_selected_experts > 1:
        top = ops.sum(ops.top_k(p, layer.num_selected_experts)[0], axis=-1, keepdims=True)
        gates = p / (top + 1e-9)
    hidden = ops.relu(ops.einsum("td,edf->tef", rows, layer.kernel_in))
    y = ops.einsum("tef,efd->ted", hidden, layer.kernel_out)
    return ops.reshape(ops.sum((gates * served)[..., None] * y, axis=1), x.shape)


def _group_size_and_slots(layer, shape, factor):
    num_tokens = int(np.prod(shape[:-1]))
    if layer.group_size == "row":
        size = num_tokens // shape[0]
    elif layer.num_groups:
        size = -(-num_tokens // layer.num_groups)
    else:
        size = min(layer.group_size or num_tokens, num_tokens)
    slots = layer.expert_capacity or capacity(size, factor, layer.num_experts, layer.min_capacity)
    return size, slots


def switch_dense(layer, inputs, mask=None, factor=None):
    """What a float32 `SwitchDense` with ReLU gives outside training, group by group."""
    router, kernel_in, kernel_out = (
        np.asarray(weight, "float64")
        for weight in (layer.router.kernel, layer.kernel_in, layer.kernel_out)
    )
    shape, dim = inputs.shape[:-1], inputs.shape[-1]
    x = np.asarray(inputs, "float64").reshape(-1, dim)
    mask = np.ones(len(x), bool) if mask is None else np.asarray(mask, bool).reshape(-1)
    factor = factor or _factor(layer)
    size, slots = _group_size_and_slots(layer, inputs.shape, factor)
    outputs = np.zeros((len(x), kernel_out.shape[-1]))
    dropped = 0
    for start in range(0, len(x), size):
        rows, real = x[start : start + size], mask[start : start + size]
        p = softmax(rows @ router)
        top = np.sort(p, axis=-1)[:, ::-1][:, : layer.num_selected_experts]
        norm = top.sum(-1) if layer.num_selected_experts > 1 else np.ones(len(rows))
        served = np.zeros(len(rows), bool)
        for token, _, expert, kept in _service(layer, p, real, slots):
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


def one_hot_expert_choice(layer, x, taken):
    """Zhou et al.'s einsums of one group, in `keras.ops`: differentiable.

    Args:
        layer: `SwitchDense` with ReLU.
        x: Tensor `(S, D)`.
        taken: Array `(S, E)` of ones and zeros: which experts take which token.
    """
    from keras import ops

    tokens = np.stack([np.flatnonzero(column) for column in taken.T])
    permutation = np.eye(len(taken), dtype="float32")[tokens]
    p = ops.softmax(ops.matmul(x, layer.router.kernel), axis=-1)
    gates = ops.einsum("ecs,se->ec", permutation, p)
    hidden = ops.einsum("ecs,sd,edf->ecf", permutation, x, layer.kernel_in)
    y = ops.einsum("ecf,efd->ecd", ops.relu(hidden), layer.kernel_out)
    return ops.einsum("ecs,ec,ecd->sd", permutation, gates, y)
