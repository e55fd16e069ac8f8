"""Checks of what a backbone is made of; the blocks check the rest."""

import numpy as np

from keras_switch import checks
from keras_switch.layers import algorithms

SIZES = (
    "vocabulary_size",
    "num_layers",
    "num_heads",
    "hidden_dim",
    "intermediate_dim",
    "num_decoder_layers",
    "num_buckets",
    "max_distance",
)


def check_and_complete(backbone):
    """Checks the constructor's arguments, and fills in those that have no value.

    Args:
        backbone: `SwitchBackbone` that holds its arguments as attributes.
    """
    optional = [x for x in ("num_experts", "key_value_dim") if getattr(backbone, x) is not None]
    checks.check_attributes(backbone, checks.check_positive_integer, (*SIZES, *optional))
    flags = ("tie_embedding_weights", "gated", "expert_attention")
    checks.check_attributes(backbone, checks.check_bool, flags)
    checks.check_attributes(backbone, checks.check_number, ("dropout",), 0, 1)
    checks.check_attributes(backbone, checks.check_positive_number, ("layer_norm_epsilon",))
    backbone.seed = checks.check_seed(backbone.seed)
    backbone.switch = {name: checks.plain(value) for name, value in backbone.switch.items()}
    if backbone.key_value_dim is None:
        if backbone.hidden_dim % backbone.num_heads:
            raise ValueError(
                "`num_heads` must divide `hidden_dim`, or `key_value_dim` must be given. Received: "
                f"num_heads={backbone.num_heads}, hidden_dim={backbone.hidden_dim}"
            )
        backbone.key_value_dim = backbone.hidden_dim // backbone.num_heads
    depths = {"encoder": backbone.num_layers, "decoder": backbone.num_decoder_layers}
    for side, depth in depths.items():
        name = f"{side}_sparse_layers"
        setattr(backbone, name, _sparse_layers(backbone, name, depth))
    if backbone.num_experts is None and (backbone.switch or backbone.expert_attention):
        raise ValueError(
            "`switch` and `expert_attention` need `num_experts`. Received: num_experts=None, "
            f"switch={backbone.switch}, expert_attention={backbone.expert_attention}"
        )
    advice = " Where only the encoder has experts, `decoder_sparse_layers=[]`, it may."
    algorithms.check_switch(backbone.switch, bool(backbone.decoder_sparse_layers), advice)


def _sparse_layers(backbone, name, depth):
    """The sorted numbers of a stack's sparse blocks."""
    layers = getattr(backbone, name)
    if layers is None:
        layers = [] if backbone.num_experts is None else range(1, depth, 2)
    if isinstance(layers, np.ndarray):
        layers = layers.tolist()
    is_sequence = isinstance(layers, (list, tuple, range))
    if not is_sequence or any(not checks.is_integer(i) or not 0 <= i < depth for i in layers):
        raise ValueError(
            f"`{name}` must list numbers of blocks, from 0 to {depth - 1}, such as "
            f"range(1, {depth}, 2). Received: {name}={layers!r}"
        )
    if layers and backbone.num_experts is None:
        raise ValueError(
            f"`{name}` needs `num_experts`. Received: num_experts=None, {name}={layers!r}"
        )
    return sorted({int(i) for i in layers})
