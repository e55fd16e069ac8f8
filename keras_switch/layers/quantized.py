"""What a layer of several layers saves of `quantize`, which Keras applies to its parts.

Its config has a map of dtype policies, and the parts that it makes get theirs out of the map: Keras
cannot save a `Dense` whose own policy is a map.
"""

import keras

# Modes that the name of a policy tells all of.
_TOLD = ("int8", "float8")
_Map = keras.dtype_policies.DTypePolicyMap


def policy_of(layer):
    """The dtype policy of a layer's config: a map, if parts of it are quantized.

    Args:
        layer: `keras.layers.Layer` or model.

    Returns:
        `keras.DTypePolicy`, or `keras.dtype_policies.DTypePolicyMap`.

    Raises:
        ValueError: If a part is quantized in a way that its policy does not tell.
    """
    policy = layer.dtype_policy
    if isinstance(policy, _Map):
        policy = policy.default_policy
    parts = quantized_parts(layer)
    for part in parts:
        _check_told_by_policy(part)
    return _Map(policy.name, {x.path: x.dtype_policy for x in parts}) if parts else policy


def part_policy(policy, path):
    """The dtype policy of the part at a path, in a layer with the dtype or policy `policy`."""
    return policy[path] if isinstance(policy, _Map) else policy


def _check_told_by_policy(part):
    mode, config = part.quantization_mode, part.quantization_config
    usual = config is None or mode == "float8"
    if mode == "int8" and not usual:
        usual = _quantizers(config) == _quantizers(keras.quantizers.Int8QuantizationConfig())
    if mode not in _TOLD or not usual:
        raise ValueError(
            'Only what `quantize("int8")` and `quantize("float8")` quantize, with no other '
            f"quantizers, can be saved. Received: `{part.path}` in {mode}, with "
            f"{type(config).__name__}: {_quantizers(config)}"
        )


def _quantizers(config):
    both = (config.weight_quantizer, config.activation_quantizer)
    return [x and (type(x).__name__, x.get_config()) for x in both]


def quantized_parts(layer):
    """The layers of a layer or model, itself among them, that are quantized."""
    return [part for part in layer._flatten_layers() if part.quantization_mode is not None]


def check_not_quantized(model):
    """Raises `ValueError` where the weights of a model are to be copied or converted."""
    parts = quantized_parts(model)
    if parts:
        raise ValueError(
            "The weights of a quantized model cannot be copied to another model or format. Take "
            f"the model as it was before `quantize`. Received: {len(parts)} quantized layers, "
            f"such as `{parts[0].path}` in {parts[0].quantization_mode}"
        )
