"""The tensors of a transformers model, named and shaped as SwitchBackbone.named_weights does.

It needs torch only, and knows nothing of `keras_switch.export`, which names them on its own.
"""

import torch

ATTENTION = {"q": "query", "k": "key", "v": "value", "o": "output"}
DENSE = {"wi": "input", "wi_0": "gate", "wi_1": "input", "wo": "output"}
EXPERT = {"wi": "kernel_in", "wo": "kernel_out"}


def renamed(tensors, tied):
    """Returns a dictionary of tensors by our names, transposed and stacked as ours are.

    Args:
        tensors: Dictionary of tensors by `named_parameters()`'s names.
        tied: bool. Whether the logits use the token embedding.
    """
    found, stacks = {}, {}
    for name, tensor in tensors.items():
        if name == "shared.weight":
            found["token_embedding"] = tensor
        elif name == "lm_head.weight":
            if not tied:
                found["logits"] = tensor.T
        elif name.endswith("final_layer_norm.weight"):
            found[f"{name.split('.')[0]}/norm"] = tensor
        elif "relative_attention_bias" in name:
            found[f"{name.split('.')[0]}/position_bias"] = tensor
        elif not name.endswith("embed_tokens.weight"):
            _add_of_block(found, stacks, name, tensor)
    for name, stack in stacks.items():
        found[name] = torch.stack([stack[expert] for expert in range(len(stack))])
    return found


def _add_of_block(found, stacks, name, tensor):
    side, _, number, _, layer, rest = name.split(".", 5)
    block, parts = f"{side}/{number}", rest.split(".")
    kind = ("self_attention", "cross_attention", "feed_forward")[int(layer)]
    if side == "encoder" and layer == "1":
        kind = "feed_forward"
    if parts[0] == "layer_norm":
        found[f"{block}/{kind}_norm"] = tensor
    elif parts[0] in ("SelfAttention", "EncDecAttention"):
        found[f"{block}/{kind}/{ATTENTION[parts[1]]}"] = tensor.T
    elif parts[1] == "router":
        found[f"{block}/{kind}/router"] = tensor.T
    elif parts[1] == "experts":
        stack = stacks.setdefault(f"{block}/{kind}/{EXPERT[parts[3]]}", {})
        stack[int(parts[2].removeprefix("expert_"))] = tensor.T
    else:
        found[f"{block}/{kind}/{DENSE[parts[1]]}"] = tensor.T
