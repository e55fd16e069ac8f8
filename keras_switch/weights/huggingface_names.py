"""Where Hugging Face keeps each weight: Switch Transformers' names, and T5's."""

from keras_switch.weights.source import Entry

SHARED = "shared.weight"
# All hold the same values.
EMBEDDINGS = (SHARED, "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
LOGITS = "lm_head.weight"
TRANSPOSED = (1, 0)
_ATTENTION = {"query": "q", "key": "k", "value": "v", "output": "o"}
_SELF = "layer.0.SelfAttention"
# By number of sparse or dense layer: names in a feed-forward that is, or is not, gated.
_DENSE = {"input": "wi", "output": "wo"}
_GATED = {"gate": "wi_0", "input": "wi_1", "output": "wo"}
_EXPERTS = {"kernel_in": "wi", "kernel_out": "wo"}


def table(shapes, model_type, gated=False):
    """Returns the `Entry` of each weight that Hugging Face has a name for.

    Args:
        shapes: Dictionary from names of weights, as in `SwitchBackbone.named_weights`, to shapes.
        model_type: `"switch_transformers"` or `"t5"`.
        gated: bool. Whether the dense feed-forwards are gated.
    """
    entries = {name: _entry(name, shape, model_type, gated) for name, shape in shapes.items()}
    return {name: entry for name, entry in entries.items() if entry is not None}


def _entry(weight, shape, model_type, gated):
    if weight == "token_embedding":
        return Entry((SHARED,))
    if weight == "logits":
        return Entry((LOGITS,), TRANSPOSED)
    side, *path = weight.split("/")
    if path == ["position_bias"]:
        return Entry((f"{side}.block.0.{_SELF}.relative_attention_bias.weight",))
    if path == ["norm"]:
        return Entry((f"{side}.final_layer_norm.weight",))
    number, part, *rest = path
    block, last = f"{side}.block.{number}", 2 if side == "decoder" else 1
    layers = {"self_attention_norm": 0, "cross_attention_norm": 1, "feed_forward_norm": last}
    if part in layers:
        return Entry((f"{block}.layer.{layers[part]}.layer_norm.weight",))
    if part == "feed_forward":
        names = {"switch_transformers": "mlp", "t5": "DenseReluDense"}
        return _feed_forward(f"{block}.layer.{last}.{names[model_type]}", rest[0], shape, gated)
    layers = {"self_attention": _SELF, "cross_attention": "layer.1.EncDecAttention"}
    if len(rest) > 1:
        return None  # The experts of expert attention.
    return Entry((f"{block}.{layers[part]}.{_ATTENTION[rest[0]]}.weight",), TRANSPOSED)


def _feed_forward(layer, part, shape, gated):
    if part == "router":
        return Entry((f"{layer}.router.classifier.weight",), TRANSPOSED)
    if part.startswith("kernel"):
        if part not in _EXPERTS:
            return None
        experts = range(shape[0])
        names = (f"{layer}.experts.expert_{e}.{_EXPERTS[part]}.weight" for e in experts)
        return Entry(tuple(names), TRANSPOSED, stacked=True)
    return Entry((f"{layer}.{(_GATED if gated else _DENSE)[part]}.weight",), TRANSPOSED)
