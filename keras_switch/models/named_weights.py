"""One name for each weight of a backbone, which copies and conversions go by."""

_DENSE_ATTENTION = ("query", "key", "value")
_SWITCH_ATTENTION = ("query", "key_value")


def of(backbone):
    """Returns all weights of a `SwitchBackbone`.

    Kernels are `(inputs, outputs)`, with the experts first where there are several. In
    `"encoder/1/feed_forward/kernel_in"` 1 is the number of the block.

    Returns:
        Dictionary from names to variables. Each weight is in it once.
    """
    weights = {"token_embedding": backbone.token_embedding.embeddings}
    if not backbone.tie_embedding_weights:
        weights["logits"] = backbone.token_embedding.reverse_embeddings
    for side in ("encoder", "decoder"):
        weights[f"{side}/position_bias"] = getattr(backbone, f"{side}_position_bias").embedding
        for number, block in enumerate(getattr(backbone, f"{side}_blocks")):
            for name, weight in _of_block(block):
                weights[f"{side}/{number}/{name}"] = weight
        weights[f"{side}/norm"] = getattr(backbone, f"{side}_norm").scale
    return weights


def _of_block(block):
    yield from _of_attention("self_attention", block.self_attention)
    yield "self_attention_norm", block.self_attention_norm.scale
    if block.cross_attention:
        yield from _of_attention("cross_attention", block.encoder_attention)
        yield "cross_attention_norm", block.encoder_attention_norm.scale
    layer = block.feed_forward
    if block.num_experts is not None:
        yield from _of_switch("feed_forward", layer)
    else:
        yield "feed_forward/input", layer.input_dense.kernel
        if layer.gated:
            yield "feed_forward/gate", layer.gate_dense.kernel
        yield "feed_forward/output", layer.output_dense.kernel
    yield "feed_forward_norm", block.feed_forward_norm.scale


def _of_attention(name, attention):
    if attention.switch is None:
        for part in _DENSE_ATTENTION:
            yield f"{name}/{part}", getattr(attention, part).kernel
    else:
        for part in _SWITCH_ATTENTION:
            yield from _of_switch(f"{name}/{part}", getattr(attention, part))
    yield f"{name}/output", attention.output_dense.kernel


def _of_switch(name, layer):
    yield f"{name}/router", layer.router.kernel
    yield f"{name}/kernel_in", layer.kernel_in
    if layer.kernel_gate is not None:
        yield f"{name}/kernel_gate", layer.kernel_gate
    yield f"{name}/kernel_out", layer.kernel_out
