"""Checks of what a Switch Transformer block is made of and called with."""

import inspect

import keras

from keras_switch import checks
from keras_switch.layers import algorithms
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

CACHES = ("self_attention_cache", "cache_update_index", "cross_attention_cache")
MASKS = ("padding_mask", "attention_mask", "encoder_padding_mask", "cross_attention_mask")


def check_arguments(block):
    """Checks the constructor's arguments, which are attributes of the block by now: plain ones."""
    optional = [x for x in ("num_experts", "key_value_dim") if getattr(block, x) is not None]
    integers = ("num_heads", "intermediate_dim", "num_buckets", "max_distance", *optional)
    checks.check_attributes(block, checks.check_positive_integer, integers)
    flags = ("causal", "cross_attention", "gated", "relative_attention", "expert_attention")
    checks.check_attributes(block, checks.check_bool, flags)
    checks.check_attributes(block, checks.check_number, ("dropout",), 0, 1)
    checks.check_attributes(block, checks.check_positive_number, ("layer_norm_epsilon",))
    block.seed = checks.check_seed(block.seed)
    block.switch = {name: checks.plain(value) for name, value in block.switch.items()}
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
    algorithms.check_switch(block.switch, block.causal)


def check_inputs_shape(block, shape):
    """Checks the shape that the block is built for."""
    if len(shape) != 3 or shape[-1] is None:
        raise ValueError(
            "`SwitchTransformerBlock` needs inputs `(batch, length, dim)` whose last "
            f"dimension is known. Received: inputs.shape={tuple(shape)}"
        )
    if block.key_value_dim is None and shape[-1] % block.num_heads:
        raise ValueError(
            "`num_heads` must divide the width of the inputs, or `key_value_dim` must be "
            f"given. Received: num_heads={block.num_heads}, inputs.shape={tuple(shape)}"
        )


def check_call(block, inputs, encoder_sequence, position_bias, caches, masks):
    """Checks all that a block is called with; an unknown dimension is any size.

    Args:
        block: `SwitchTransformerBlock`.
        inputs: Tensor.
        encoder_sequence: Tensor or `None`.
        position_bias: Tensor or `None`.
        caches: What `CACHES` names, each a tensor or `None`.
        masks: What `MASKS` names, each a tensor or `None`.
    """
    cache, index, cross_cache = caches
    _check_sequences(block, inputs, encoder_sequence, cross_cache)
    batch, length = inputs.shape[:2]
    encoder_batch = _encoder_batch(batch, encoder_sequence, cross_cache)
    for name, value, rows in zip(CACHES[::2], (cache, cross_cache), (batch, encoder_batch)):
        if value is not None:
            _check_cache_shape(block, inputs, name, value, rows)
    _check_caches(block, inputs, cache, index, cross_cache)
    keys = length if cache is None else cache.shape[2]
    encoder_keys = _encoder_length(encoder_sequence, cross_cache)
    shapes = (
        (batch, keys),
        (batch, length, keys),
        (encoder_batch, encoder_keys),
        (encoder_batch, length, encoder_keys),
    )
    for name, mask, shape in zip(MASKS, masks, shapes):
        if mask is not None:
            if batch in mask.shape[:1]:  # Also where the encoder has fewer rows.
                shape = (batch, *shape[1:])
            _check_shape(name, mask, shape, broadcast=len(shape) == 3)
    if position_bias is not None:
        _check_position_bias(block, position_bias, (batch, block.num_heads, length, keys))


def _check_sequences(block, inputs, encoder_sequence, cross_cache):
    """Requires an encoder exactly if the block has cross-attention."""
    dtype = keras.backend.standardize_dtype(inputs.dtype)
    if "float" not in dtype:
        raise ValueError(
            "`SwitchTransformerBlock` needs floating point inputs. Embed or cast them first. "
            f"Received: inputs.dtype={dtype}"
        )
    if block.built and inputs.shape[-1] != block.feed_forward_norm.scale.shape[0]:
        raise ValueError(
            "The inputs must be as wide as those that the block was built for, "
            f"{block.feed_forward_norm.scale.shape[0]}. Received: "
            f"inputs.shape={tuple(inputs.shape)}"
        )
    given = [
        name
        for name, value in zip(("encoder_sequence", CACHES[2]), (encoder_sequence, cross_cache))
        if value is not None
    ]
    if given and not block.cross_attention:
        raise ValueError(
            f"`{given[0]}` needs a block with `cross_attention=True`. Received: "
            "cross_attention=False"
        )
    if block.cross_attention and not given:
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


def _encoder_batch(batch, encoder_sequence, cross_cache):
    """Rows of the encoder's masks and cache; a cache that is filled may have a share of all."""
    if encoder_sequence is not None or cross_cache is None or batch is None:
        return batch
    rows = cross_cache.shape[0]
    return rows if rows is None or (rows and batch % rows == 0) else batch


def _check_cache_shape(block, inputs, name, cache, rows):
    size = block.key_value_dim or inputs.shape[-1] // block.num_heads
    expected = (rows, 2, None, block.num_heads, size)
    if not _fits(cache.shape, expected):
        raise ValueError(
            f"`{name}` must have the shape `(batch, 2, max_length, num_heads, key_value_dim)`, "
            f"here {expected}. Received: {name}.shape={tuple(cache.shape)}"
        )


def _check_caches(block, inputs, cache, index, cross_cache):
    if cache is None:
        if index is not None:
            raise ValueError(
                "`cache_update_index` needs `self_attention_cache`. Received: "
                f"cache_update_index={index}, self_attention_cache=None"
            )
        return
    if not block.causal:
        raise ValueError(
            "`self_attention_cache` needs a block with `causal=True`. Received: causal=False"
        )
    if index is None:
        raise ValueError(
            "`self_attention_cache` needs `cache_update_index`. Received: cache_update_index=None"
        )
    if block.cross_attention and cross_cache is None:
        raise ValueError(
            "`self_attention_cache` needs `cross_attention_cache` in a block with "
            "`cross_attention=True`. Received: cross_attention_cache=None"
        )
    _check_index(index, inputs.shape[1], cache.shape[2])


def _check_index(index, length, max_length):
    """Requires a scalar, and one that leaves room for the inputs, as far as is known."""
    is_number = checks.is_integer(index)
    is_tensor = hasattr(index, "shape") and len(index.shape) == 0
    if is_tensor:
        is_tensor = "int" in keras.backend.standardize_dtype(index.dtype)
    if not is_number and not is_tensor:
        raise ValueError(
            "`cache_update_index` must be an integer or an integer scalar tensor. "
            f"Received: cache_update_index={index}"
        )
    start = index if is_number else 0
    too_long = None not in (length, max_length) and start + length > max_length
    if start < 0 or too_long:
        raise ValueError(
            "The inputs must find room in `self_attention_cache` from `cache_update_index` on. "
            f"Received: cache_update_index={index}, a length of {length} and a cache of "
            f"{max_length}"
        )


def _encoder_length(encoder_sequence, cross_cache):
    """Number of keys in cross-attention, or `None`."""
    tensors = ((encoder_sequence, 1), (cross_cache, 2))
    lengths = {x.shape[axis] for x, axis in tensors if x is not None} - {None}
    if len(lengths) > 1:
        raise ValueError(
            "`cross_attention_cache` must be as long as `encoder_sequence`, or its last keys "
            f"would be zeros. Received: encoder_sequence.shape={tuple(encoder_sequence.shape)}, "
            f"cross_attention_cache.shape={tuple(cross_cache.shape)}"
        )
    return lengths.pop() if lengths else None


def _check_position_bias(block, bias, shape):
    if block.relative_attention:
        raise ValueError(
            "`position_bias` needs a block with `relative_attention=False`: this one has a bias "
            "of its own. Received: relative_attention=True"
        )
    _check_shape("position_bias", bias, shape, broadcast=True)


def _check_shape(name, tensor, shape, broadcast):
    if not _fits(tensor.shape, shape, broadcast):
        verb = "broadcast to" if broadcast else "have"
        raise ValueError(
            f"`{name}` must have rank {len(shape)} and {verb} the shape {shape}. "
            f"Received: {name}.shape={tuple(tensor.shape)}"
        )


def _fits(received, expected, broadcast=False):
    """Whether two shapes can be equal, or the first one can broadcast to the second one."""
    if len(received) != len(expected):
        return False
    pairs = [pair for pair in zip(received, expected) if None not in pair]
    return all(a == b or (broadcast and a == 1) for a, b in pairs)
