"""Writes checkpoints with TensorFlow's saver under Mesh TensorFlow's names."""

import numpy as np
import tensorflow as tf

LAYERS = {
    "encoder": ("self_attention", "feed_forward"),
    "decoder": ("self_attention", "cross_attention", "feed_forward"),
}
PARTS = {
    "query": "q",
    "key": "k",
    "value": "v",
    "output": "o",
    "gate": "wi_0/kernel",
    "kernel_gate": "wi_0/kernel",
    "kernel_out": "wo/kernel",
}


def mesh_name(name, arguments, blocks, norm, gating):
    """Mesh TensorFlow's name of one of our weights.

    Args:
        name: string. Our name.
        arguments: Dictionary of the backbone's arguments.
        blocks: int. Our blocks in one of Mesh TensorFlow's, or 0 for no scopes of blocks.
        norm: string. Name of norms.
        gating: string. Name of the routers.
    """
    wi = "wi_1/kernel" if arguments.get("gated") else "wi/kernel"
    if name in ("token_embedding", "logits"):
        return {"token_embedding": "shared/embedding", "logits": "decoder/logits/kernel"}[name]
    side, *parts = name.split("/")
    if parts == ["norm"]:
        return f"{side}/{'final_' if norm == 'layer_norm' else ''}{norm}/scale"

    def scope(number, layer):
        index = LAYERS[side].index(layer)
        if blocks == 0:
            return f"{side}/layer_{number * len(LAYERS[side]) + index:03d}"
        index += number % blocks * len(LAYERS[side])
        return f"{side}/block_{number // blocks:03d}/layer_{index:03d}"

    if parts == ["position_bias"]:
        return f"{scope(0, 'self_attention')}/SelfAttention/relative_attention_bias"
    number, layer = int(parts[0]), parts[1]
    if layer.endswith("_norm"):
        return f"{scope(number, layer.removesuffix('_norm'))}/{norm}/scale"
    kinds = {"self_attention": "SelfAttention", "cross_attention": "EncDecAttention"}
    if layer in kinds:
        return f"{scope(number, layer)}/{kinds[layer]}/{PARTS[parts[2]]}"
    sparse = parts[2] == "router" or parts[2].startswith("kernel")
    part = {"output": "wo/kernel", "input": wi, "kernel_in": wi, "router": f"{gating}/kernel"}
    kind = "MoE1D" if sparse else "DenseReluDense"
    return f"{scope(number, layer)}/{kind}/{(PARTS | part)[parts[2]]}"


def tensors(weights, arguments, blocks=1, norm="rms_norm", gating="switch_gating"):
    """Mesh TensorFlow's tensors, by name, of our weights."""
    named = {mesh_name(k, arguments, blocks, norm, gating): v for k, v in weights.items()}
    return {k: v.T if k.endswith("attention_bias") else v for k, v in named.items()}


def with_slots(named):
    """Adds the step, and Adafactor's slots."""
    slots = {"global_step": np.int64(7)}
    for name, value in named.items():
        if value.ndim == 2:
            slots[f"{name}_slot_vr"] = value[:, 0].astype("float32")
            slots[f"{name}_slot_vc"] = value[0].astype("float32")
        else:
            slots[f"{name}_slot_v"] = value.astype("float32")
    return {**named, **slots}


def write(prefix, named, shards=1, state=None):
    """Writes a checkpoint, and the file that names it."""
    prefix.parent.mkdir(exist_ok=True)
    names = sorted(named)
    parts = [f"{prefix}_part_{index}" for index in range(shards)]
    for index, part in enumerate(parts):
        mine = names[index::shards]
        values = [tf.constant(named[name]) for name in mine]
        tf.raw_ops.SaveV2(
            prefix=part, tensor_names=mine, shape_and_slices=[""] * len(mine), tensors=values
        )
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=str(prefix))
    text = f'model_checkpoint_path: "{state or prefix.name}"\n'
    (prefix.parent / "checkpoint").write_text(text)
