"""Hugging Face's `config.json` as arguments of `SwitchBackbone`, and back."""

import math

from keras_switch.layers import activations

MODEL_TYPES = ("switch_transformers", "t5")
# An expert takes at most this many tokens: more than any row has.
NO_CAPACITY = 2**31 - 1
_ACTIVATIONS = {
    "relu": "relu",
    "gelu_new": "gelu_approximate",
    "gelu_pytorch_tanh": "gelu_approximate",
    "gelu": "gelu",
    "silu": "silu",
    "swish": "silu",
}
# Their name, ours, and the default of both of their classes.
_SIZES = (
    ("vocab_size", "vocabulary_size", 32128),
    ("d_model", "hidden_dim", {"switch_transformers": 768, "t5": 512}),
    ("d_kv", "key_value_dim", 64),
    ("d_ff", "intermediate_dim", 2048),
    ("num_layers", "num_layers", {"switch_transformers": 12, "t5": 6}),
    ("num_heads", "num_heads", {"switch_transformers": 12, "t5": 8}),
    ("relative_attention_num_buckets", "num_buckets", 32),
    ("relative_attention_max_distance", "max_distance", 128),
)
_SIDES = {"encoder": "num_layers", "decoder": "num_decoder_layers"}


def to_arguments(config):
    """Arguments of `SwitchBackbone`, of a dictionary that was in a `config.json`.

    Raises:
        ValueError: If a value is not sensible, or is one that no `SwitchBackbone` has.
    """
    model_type = config["model_type"]
    arguments = {}
    for theirs, ours, default in _SIZES:
        default = default[model_type] if isinstance(default, dict) else default
        arguments[ours] = _integer(config, theirs, default)
    layers = arguments["num_layers"]
    depth = config.get("num_decoder_layers")
    arguments["num_decoder_layers"] = (
        layers if depth is None else _integer(config, "num_decoder_layers", layers)
    )
    arguments["dropout"] = _number(config, "dropout_rate", 0.1, below=1)
    arguments["layer_norm_epsilon"] = _number(config, "layer_norm_epsilon", 1e-6)
    for name, value in (("pad_token_id", 0), ("eos_token_id", 1), ("decoder_start_token_id", 0)):
        _require(config, name, (value, None), value)
    if model_type == "t5":
        return {**arguments, **_t5(config)}
    _require(config, "router_bias", (False,), False)
    _require(config, "router_dtype", ("float32",), "float32")
    for side, depth in _SIDES.items():
        name = f"num_sparse_{side}_layers"
        number = _integer(config, name, 3, least=0)
        arguments[f"{side}_sparse_layers"] = sparse_layers(arguments[depth], number)
    return {
        **arguments,
        "num_experts": _integer(config, "num_experts", 8),
        "activation": _activation(config, "dense_act_fn", config.get("dense_act_fn", "relu")),
        "tie_embedding_weights": _boolean(config, "tie_word_embeddings", True),
        "switch": _switch(config, arguments["dropout"]),
    }


def sparse_layers(num_layers, num_sparse):
    """The numbers of the sparse blocks of a stack, by Hugging Face's rule.

    Its step for 0 sparse blocks is the depth, which makes block 1 sparse all the same.
    """
    step = num_layers // num_sparse if num_sparse else num_layers
    return [i for i in range(num_layers) if step and (step == 1 or i % step == 1)]


def to_config(backbone):
    """What `config.json` says of a `SwitchBackbone`.

    Raises:
        ValueError: If Hugging Face has no class for the model.
    """
    sparse = {side: getattr(backbone, f"{side}_sparse_layers") for side in _SIDES}
    model_type = "switch_transformers" if any(sparse.values()) else "t5"
    config = {theirs: getattr(backbone, ours) for theirs, ours, _ in _SIZES}
    config |= {
        "model_type": model_type,
        "is_encoder_decoder": True,
        "num_decoder_layers": backbone.num_decoder_layers,
        "dropout_rate": backbone.dropout,
        "layer_norm_epsilon": backbone.layer_norm_epsilon,
        "tie_word_embeddings": backbone.tie_embedding_weights,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }
    known = {theirs for theirs, ours in _ACTIVATIONS.items() if _is(backbone.activation, ours)}
    activation = next((name for name in _ACTIVATIONS if name in known), None)
    if activation is None or (activation == "gelu" and backbone.gated):
        _cannot(activation=backbone.activation, gated=backbone.gated)
    if model_type == "t5":
        short = "gelu" if activation == "gelu_new" else activation
        config["architectures"] = ["T5ForConditionalGeneration"]
        config["feed_forward_proj"] = f"gated-{short}" if backbone.gated else activation
        return config
    for side, layers in sparse.items():
        config[f"num_sparse_{side}_layers"] = _num_sparse(backbone, side, layers)
    config["architectures"] = ["SwitchTransformersForConditionalGeneration"]
    config["dense_act_fn"] = activation
    return config | _router(backbone)


def _num_sparse(backbone, side, layers):
    depth = getattr(backbone, _SIDES[side])
    # The plain number first, then those that come to the same: none, for instance, is more than
    # there are blocks.
    for number in (len(layers), *range(depth + 2)):
        if sparse_layers(depth, number) == list(layers):
            return number
    return _cannot(**{_SIDES[side]: depth, f"{side}_sparse_layers": layers})


def _router(backbone):
    switch = {"num_selected_experts": 1, "exploration": "jitter", "jitter": 0.01}
    switch |= {"overflow": "drop", "priority": "position", "group_size": None}
    switch |= {"routing": "token_choice"}
    switch |= {"balance_loss_weight": 0.01, "z_loss_weight": 0.0, "expert_capacity": None}
    switch |= backbone.switch
    if backbone.gated or backbone.expert_attention or switch["num_selected_experts"] != 1:
        _cannot(
            gated=backbone.gated,
            expert_attention=backbone.expert_attention,
            num_selected_experts=switch["num_selected_experts"],
        )
    if switch["routing"] != "token_choice":
        _cannot(routing=switch["routing"])
    limited = switch["overflow"] == "drop" and switch["expert_capacity"] is not None
    if limited and (switch["group_size"] != "row" or switch["priority"] != "position"):
        _cannot(**{name: switch[name] for name in ("group_size", "priority", "expert_capacity")})
    return {
        "num_experts": backbone.num_experts,
        "expert_capacity": switch["expert_capacity"] if limited else NO_CAPACITY,
        "router_jitter_noise": switch["jitter"] if switch["exploration"] == "jitter" else 0.0,
        "router_z_loss_coef": switch["z_loss_weight"],
        "router_aux_loss_coef": switch["balance_loss_weight"],
    }


def _switch(config, dropout):
    """Arguments of `SwitchDense`."""
    jitter = _number(config, "router_jitter_noise", 0.01, below=1)
    capacity = _integer(config, "expert_capacity", 64)
    limit = {"overflow": "dropless"}
    if capacity != NO_CAPACITY:
        limit = {"group_size": "row", "expert_capacity": capacity}
    return {
        **limit,
        **({"jitter": jitter} if jitter else {"exploration": "argmax"}),
        "z_loss_weight": _number(config, "router_z_loss_coef", 0.001),
        "balance_loss_weight": _number(config, "router_aux_loss_coef", 0.001),
        "expert_dropout": dropout,
    }


def _t5(config):
    projection = config.get("feed_forward_proj", "relu")
    words = projection.split("-") if isinstance(projection, str) else []
    gated = len(words) == 2 and words[0] == "gated"
    if not gated and len(words) != 1:
        words = [None]
    name = "gelu_new" if projection == "gated-gelu" else words[-1]
    # T5 1.1 does not rescale what goes into the logits; nothing else tells it from 1.0.
    rescaled = _boolean(config, "tie_word_embeddings", True)
    return {
        "activation": _activation(config, "feed_forward_proj", name),
        "gated": gated,
        "tie_embedding_weights": _boolean(config, "scale_decoder_outputs", rescaled),
    }


def _is(activation, name):
    return activation is activations.get(name)


def _activation(config, name, value):
    if not isinstance(value, str) or value not in _ACTIVATIONS:
        _refuse(config, name, f"one of {', '.join(_ACTIVATIONS)}, or for T5 `gated-` before it")
    return _ACTIVATIONS[value]


def _boolean(config, name, default):
    value = config.get(name)
    if value is None:
        return default
    if type(value) is not bool:
        _refuse(config, name, "true or false")
    return value


def _integer(config, name, default, least=1):
    value = config.get(name, default)
    if type(value) is not int or not least <= value < 2**31:
        _refuse(config, name, f"an integer from {least} to {2**31 - 1}")
    return value


def _number(config, name, default, below=math.inf):
    value = config.get(name, default)
    if type(value) not in (int, float) or not 0 <= value < below:
        _refuse(config, name, "a number from 0 on" + ("" if below == math.inf else " and below 1"))
    return float(value)


def _require(config, name, values, default):
    if config.get(name, default) not in values:
        _refuse(config, name, " or ".join(map(repr, values)))


def _refuse(config, name, what):
    raise ValueError(
        f"`{name}` in config.json must be {what}. Received: {name}={config.get(name)!r}"
    )


def _cannot(**values):
    received = ", ".join(f"{name}={value}" for name, value in values.items())
    raise ValueError(
        "Hugging Face's Switch Transformers and T5 have no such model; keep it in Keras's format. "
        f"Received: {received}"
    )
