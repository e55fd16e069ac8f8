"""How large a model is and what it computes, known without allocating it."""

import functools
import math

from keras_switch.layers import scopes
from keras_switch.models import presets
from keras_switch.models.switch_backbone import SwitchBackbone

HEADER = (
    "name",
    "parameters",
    "FLOPs a sequence",
    "d_model",
    "d_ff",
    "heads",
    "layers",
    "experts",
    "sparse blocks",
)


def num_parameters(model):
    """Counts the weights of a model exactly.

    Args:
        model: A name in `PRESETS`, a dictionary of `SwitchBackbone` arguments, or a
            `SwitchBackbone`.

    Returns:
        int. All weights, with embeddings, norms and position biases.

    Raises:
        ValueError: If there is no such preset, or an argument is not as `SwitchBackbone` says.

    Example:
    >>> num_parameters("switch_base_8")
    619339008
    """
    return _abstract(model).count_params()


def flops_per_sequence(model, encoder_length=512, decoder_length=114):
    """Counts the operations of a forward pass over one sequence, as the paper's table 9 does.

    A weight takes two operations, a product and a sum, for each token of its stack; an expert's
    weight for each token that selects the expert. By this convention the keys and values of the
    cross-attention, weights of the decoder, count for its tokens, though they are computed once
    for each of the encoder's. The logits count. Looking up embeddings, norms, position biases and
    attention scores do not, and no token is dropped.

    Args:
        model: As for `num_parameters`.
        encoder_length: int. Tokens that the encoder reads.
        decoder_length: int. Tokens that the decoder writes: 114 are T5's for 512.

    Returns:
        int.

    Raises:
        ValueError: As `num_parameters`.

    Example:
    >>> flops_per_sequence("switch_base_128")
    119157424128
    """
    backbone = _abstract(model)
    lengths = {"encoder": encoder_length, "decoder": decoder_length}
    flops = 2 * decoder_length * backbone.vocabulary_size * backbone.hidden_dim
    for name, weight in backbone.named_weights().items():
        side = name.split("/")[0]
        if side not in lengths or len(weight.shape) == 1 or name.endswith("position_bias"):
            continue
        flops += 2 * lengths[side] * _elements_of_a_token(backbone, weight)
    return flops


def _elements_of_a_token(backbone, kernel):
    """How many elements of a kernel a token is multiplied with."""
    if len(kernel.shape) == 2:
        return math.prod(kernel.shape)
    return math.prod(kernel.shape[1:]) * backbone.switch.get("num_selected_experts", 1)


def table():
    """Yields the lines of a Markdown table of all presets; `1 + 2` is encoder and decoder.

    `presets.md` holds them, which `keras-switch models` prints without building a model.
    """
    rows = [HEADER, *map(_row, presets.PRESETS)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for number, row in enumerate(rows):
        cells = [row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]
        yield f"| {' | '.join(cells)} |"
        if number == 0:
            bars = [f"{'-' * (width - 1)}:" for width in widths[1:]]
            yield f"| {'-' * widths[0]} | {' | '.join(bars)} |"


def _row(name):
    backbone = _abstract(name)
    sparse = [len(backbone.encoder_sparse_layers), len(backbone.decoder_sparse_layers)]
    return (
        name,
        f"{num_parameters(backbone):,}",
        f"{flops_per_sequence(backbone) / 1e9:,.1f}B",
        f"{backbone.hidden_dim}",
        f"{backbone.intermediate_dim}",
        f"{backbone.num_heads}",
        f"{backbone.num_layers} + {backbone.num_decoder_layers}",
        f"{backbone.num_experts or '-'}",
        f"{sparse[0]} + {sparse[1]}" if any(sparse) else "-",
    )


def _abstract(model):
    """The backbone; if it is made here, its weights have shapes and no values."""
    if isinstance(model, SwitchBackbone):
        return model
    if isinstance(model, str):
        return _of_preset(model)
    with scopes.without_values():
        return SwitchBackbone(**model)


@functools.cache
def _of_preset(name):
    return _abstract(presets.preset(name))
