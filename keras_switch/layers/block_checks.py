"""Checks of what a Switch Transformer block is made of and called with."""

import inspect

from keras_switch.layers import checks
from keras_switch.layers.switch_dense import SwitchDense

# The block has these as arguments of its own, or sets them.
_OWN = {
    "self",
    "num_experts",
    "intermediate_dim",
    "activation",
    "gated",
    "kernel_initializer",
    "output_dim",
    "seed",
    "dtype",
    "kwargs",
}
SWITCH_ARGUMENTS = sorted(set(inspect.signature(SwitchDense.__init__).parameters) - _OWN)


def check_arguments(block):
    """Checks the constructor's arguments, which `block` holds as attributes."""
    checks.check_positive_integer("num_heads", block.num_heads)
    checks.check_positive_integer("intermediate_dim", block.intermediate_dim)
    for name in ("num_experts", "key_value_dim"):
        if getattr(block, name) is not None:
            checks.check_positive_integer(name, getattr(block, name))
    flags = ("causal", "cross_attention", "gated", "relative_attention", "expert_attention")
    for name in flags:
        checks.check_bool(name, getattr(block, name))
    checks.check_number("dropout", block.dropout, 0, 1)
    checks.check_positive_number("layer_norm_epsilon", block.layer_norm_epsilon)
    unknown = sorted(set(block.switch) - set(SWITCH_ARGUMENTS))
    if unknown:
        raise ValueError(
            f"`switch` takes these arguments of `SwitchDense`: {SWITCH_ARGUMENTS}. "
            f"Received: {unknown}"
        )
    if block.num_experts is None and (block.switch or block.expert_attention):
        raise ValueError(
            "`switch` and `expert_attention` need `num_experts`. Received: num_experts=None, "
            f"switch={block.switch}, expert_attention={block.expert_attention}"
        )
    if block.causal and block.switch.get("priority") == "probability":
        raise ValueError(
            'A causal block cannot have `priority="probability"`: later tokens would decide '
            f"which earlier ones find room. Received: causal=True, switch={block.switch}"
        )


def check_sequences(block, inputs, encoder_sequence, cross_cache):
    """Requires an encoder exactly if the block has cross-attention."""
    if encoder_sequence is not None and not block.cross_attention:
        raise ValueError("`encoder_sequence` needs a block with `cross_attention=True`.")
    if block.cross_attention and encoder_sequence is None and cross_cache is None:
        raise ValueError(
            "A block with `cross_attention=True` needs `encoder_sequence`, or a "
            "`cross_attention_cache` that was filled from it. Received neither."
        )
    if encoder_sequence is None:
        return
    shape = tuple(encoder_sequence.shape)
    if len(shape) != 3 or shape[-1] != inputs.shape[-1]:
        raise ValueError(
            "`encoder_sequence` must have rank 3 and be as wide as the inputs. Received: "
            f"inputs.shape={tuple(inputs.shape)}, encoder_sequence.shape={shape}"
        )


def check_caches(block, cache, index, cross_cache):
    for name, value in (("self_attention_cache", cache), ("cross_attention_cache", cross_cache)):
        if value is not None and (len(value.shape) != 5 or value.shape[1] != 2):
            raise ValueError(
                f"`{name}` must have the shape `(batch, 2, max_length, num_heads, "
                f"key_value_dim)`. Received: {name}.shape={tuple(value.shape)}"
            )
    if cache is None:
        if index is not None:
            raise ValueError("`cache_update_index` needs `self_attention_cache`.")
        return
    if not block.causal:
        raise ValueError("`self_attention_cache` needs a block with `causal=True`.")
    if index is None:
        raise ValueError("`self_attention_cache` needs `cache_update_index`.")
    if block.cross_attention and cross_cache is None:
        raise ValueError(
            "`self_attention_cache` needs `cross_attention_cache` in a block with "
            "`cross_attention=True`."
        )


def check_masks(inputs, encoder_sequence, cache, cross_cache, masks):
    """Checks the shapes of the masks, a dictionary by name; `None` is any size."""
    batch, length = inputs.shape[:2]
    keys = length if cache is None else cache.shape[2]
    encoder_keys = None
    if encoder_sequence is not None:
        encoder_keys = encoder_sequence.shape[1]
    elif cross_cache is not None:
        encoder_keys = cross_cache.shape[2]
    shapes = {
        "padding_mask": (batch, length),
        "attention_mask": (batch, length, keys),
        "encoder_padding_mask": (batch, encoder_keys),
        "cross_attention_mask": (batch, length, encoder_keys),
    }
    for name, mask in masks.items():
        if mask is not None:
            _check_mask(name, mask, shapes[name])


def _check_mask(name, mask, shape):
    pairs = zip(mask.shape, shape)
    clash = any(None not in pair and 1 != pair[0] != pair[1] for pair in pairs)
    if len(mask.shape) != len(shape) or clash:
        raise ValueError(
            f"`{name}` must have rank {len(shape)} and the shape {shape}. "
            f"Received: {name}.shape={tuple(mask.shape)}"
        )
