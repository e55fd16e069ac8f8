"""From a dense model to a sparse one, and back."""

import keras
import numpy as np

from keras_switch import checks
from keras_switch.layers import quantized

# A new router's logits have about this deviation: experts are chosen, and all probabilities even.
LOGITS_DEVIATION = 2e-3
# Arguments of a backbone that change neither what it computes nor the shape of a weight.
_REPLACEABLE = ("dropout", "dtype", "kernel_initializer", "name", "seed", "trainable")
_DENSE_KERNELS = {"kernel_in": "input", "kernel_gate": "gate", "kernel_out": "output"}


def upcycle(
    model,
    num_experts,
    *,
    encoder_sparse_layers=None,
    decoder_sparse_layers=None,
    switch=None,
    **kwargs,
):
    """Makes a sparse model that computes what a dense one does, for training to go on from.

    `predict` and `evaluate` drop no token unless `switch` has an `"eval_capacity_factor"`, and
    answer as the dense model's do. Training drops tokens as `switch` says, by default beyond a
    capacity factor of 1.25: a router that starts anew is uneven.

    Every expert starts as a copy of the block's feed-forward; the router starts anew. Where no
    token is dropped, the sparse model's loss is the dense one's:

    - With one selected expert the output is `p * E(x)`, and `p` is close to `1 / num_experts` at
      first. So the copies' `kernel_out` is `num_experts` times the feed-forward's, and the
      router's kernel is scaled down to logits of a deviation of 0.002 on normalized tokens. The
      choice of an expert depends on no scale, but `p * num_experts` is then 1 to within 1%: 0.3%
      above on average for 8 experts, 0.5% for 128, 0.7% for 2,048. As the router learns, `p` grows
      and the output with it, until training has made `kernel_out` smaller: warm the learning rate
      up.
    - With several selected experts, `switch={"num_selected_experts": 2}`, their gates sum to one:
      copies are exact at any scale of the router, and nothing is scaled.

    With `switch={"routing": "expert_choice"}` the number of a token's copies varies, and with it
    its output: the model does not start where the dense one was. Otherwise only at padding, which
    no expert computes, outputs differ.

    Args:
        model: `SwitchBackbone` or `SwitchSeq2SeqLM`, dense.
        num_experts: int. Experts of each sparse block.
        encoder_sparse_layers: Sequence of ints; see `SwitchBackbone`.
        decoder_sparse_layers: Sequence of ints; see `SwitchBackbone`.
        switch: Dictionary of further `SwitchDense` arguments. A `"router_initializer"` is used as
            it is, and not scaled down.
        **kwargs: `dropout`, `dtype`, `kernel_initializer`, `name`, `seed` and `trainable`, in the
            place of the model's.

    Returns:
        A model of the class of `model`, not trained by anything yet, with its dtype and, if it
        has them, its preprocessor and its sampler.

    Raises:
        ValueError: If the model has experts already, or is of another class, or an argument is not
            as described.

    Reference:
    - [Komatsuzaki et al., 2022](https://arxiv.org/abs/2212.05055)

    Example:
    >>> dense = keras_switch.models.SwitchBackbone.from_preset("t5_tiny", load_weights=False)
    >>> dense.upcycle(num_experts=8).num_experts
    8
    """
    dense = _backbone_of(model)
    checks.check_keywords(kwargs, _REPLACEABLE)
    if dense.num_experts is not None:
        raise ValueError(
            "Only a dense model can be upcycled, and this one has experts. Start from its dense "
            f"twin, `model.to_dense()`. Received: num_experts={dense.num_experts}"
        )
    sparse = _like(
        dense,
        num_experts=num_experts,
        encoder_sparse_layers=encoder_sparse_layers,
        decoder_sparse_layers=decoder_sparse_layers,
        switch={"eval_capacity_factor": None, **(switch or {})},
        **kwargs,
    )
    top_1 = sparse.switch.get("num_selected_experts", 1) == 1
    source = dense.named_weights()
    for name, weight in sparse.named_weights().items():
        if name in source:
            weight.assign(_array(source[name]))
            continue
        block, _, own = name.rpartition("/")
        if own == "router":
            if top_1 and "router_initializer" not in sparse.switch:
                _scale_router(weight, _array(source[f"{block}_norm"]))
        else:
            kernel = _array(source[f"{block}/{_DENSE_KERNELS[own]}"])
            if top_1 and own == "kernel_out":
                kernel = kernel * num_experts
            weight.assign(np.broadcast_to(kernel, weight.shape))
    return _with_backbone(model, sparse)


def to_dense(model, **kwargs):
    """Makes the dense twin of a sparse model, with all weights but the experts'.

    The feed-forwards of formerly sparse blocks start anew. The paper trains such a twin to imitate
    the sparse model: this start alone brings it a fifth of the way, and distillation without it
    3%.

    Args:
        model: `SwitchBackbone` or `SwitchSeq2SeqLM` with experts.
        **kwargs: `dropout`, `dtype`, `kernel_initializer`, `name`, `seed` and `trainable`, in the
            place of the model's.

    Returns:
        A model of the class of `model`, with its dtype and, if it has them, its preprocessor and
        its sampler.

    Raises:
        ValueError: If the model has no experts, or has experts in its attention, or is of another
            class, or an argument is not as described.

    Reference:
    - [Fedus et al., 2021](https://arxiv.org/abs/2101.03961), section 4.2 and table 6

    Example:
    >>> sparse = keras_switch.models.SwitchBackbone.from_preset("switch_tiny_8", load_weights=False)
    >>> sparse.to_dense().count_params()
    15570688
    """
    sparse = _backbone_of(model)
    checks.check_keywords(kwargs, _REPLACEABLE)
    if sparse.num_experts is None or sparse.expert_attention:
        raise ValueError(
            "Only a model with experts, and none of them in its attention, has a dense twin. "
            f"Received: num_experts={sparse.num_experts}, "
            f"expert_attention={sparse.expert_attention}"
        )
    dense = _like(
        sparse,
        num_experts=None,
        encoder_sparse_layers=None,
        decoder_sparse_layers=None,
        switch=None,
        **kwargs,
    )
    source = sparse.named_weights()
    for name, weight in dense.named_weights().items():
        if name in source:
            weight.assign(_array(source[name]))
    return _with_backbone(model, dense)


def _backbone_of(model):
    if not hasattr(model, "upcycle"):
        raise ValueError(
            "`model` must be a `SwitchBackbone` or a `SwitchSeq2SeqLM`. Of another task take "
            f"`model.backbone`. Received: model={model!r}"
        )
    backbone = getattr(model, "backbone", model)
    quantized.check_not_quantized(backbone)
    return backbone


def _like(backbone, **changes):
    """A backbone of the same arguments but the changed ones."""
    config = {**backbone.get_config(), **changes}
    if "name" not in changes:
        del config["name"]
    return type(backbone).from_config(config)


def _with_backbone(model, backbone):
    """The model, or the backbone itself, around another backbone."""
    if not hasattr(model, "backbone"):
        return backbone
    config = {**model.get_config(), "backbone": backbone, "preprocessor": model.preprocessor}
    del config["name"]
    made = type(model).from_config(config)
    if model.compiled:
        made.sampler = model.sampler
    return made


def _scale_router(kernel_DE, scale_D):
    """Makes the logits deviate by `LOGITS_DEVIATION`, of tokens that a norm with a scale gives."""
    kernel = _array(kernel_DE)
    effective = kernel * scale_D[:, None].astype(kernel.dtype)
    stddev = np.sqrt(np.mean(np.square(effective)) * len(effective))
    kernel_DE.assign(kernel * (LOGITS_DEVIATION / stddev))


def _array(weight):
    return keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(weight))
