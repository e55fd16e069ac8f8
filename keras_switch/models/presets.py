"""The paper's family of models: one table, and what follows from it without any weight.

Sizes and capacities are those of the released models where there are such. Base and Large are
released with ReLU and tied embeddings, though the paper's table 9 says GEGLU; XXL has 128
experts, not the table's 64; C has 30 heads.
"""

import copy
import json
import os
import pathlib

_CONVERT = "keras-switch convert --input=DIR --output=FOLDER"
_BASE = {
    "vocabulary_size": 32128,
    "num_layers": 12,
    "num_heads": 12,
    "hidden_dim": 768,
    "intermediate_dim": 3072,
    "key_value_dim": 64,
    "dropout": 0.1,
}
_LARGE = {
    **_BASE,
    "num_layers": 24,
    "num_heads": 16,
    "hidden_dim": 1024,
    "intermediate_dim": 4096,
}
_XXL = {
    **_LARGE,
    "num_heads": 64,
    "hidden_dim": 4096,
    "intermediate_dim": 10240,
    "activation": "gelu_approximate",
    "gated": True,
    "tie_embedding_weights": False,
}
_C = {
    **_BASE,
    "num_layers": 15,
    "num_heads": 30,
    "hidden_dim": 2080,
    "intermediate_dim": 6144,
    "encoder_sparse_layers": range(15),
    "decoder_sparse_layers": range(15),
    "tie_embedding_weights": False,
}
_TINY = {
    **_BASE,
    "num_layers": 4,
    "num_heads": 4,
    "hidden_dim": 256,
    "intermediate_dim": 1024,
}
_MINI = {**_TINY, "num_heads": 8, "hidden_dim": 384, "intermediate_dim": 1536}


def _switch(dense, num_experts, **switch):
    return {**dense, "num_experts": num_experts, "switch": {"expert_dropout": 0.1, **switch}}


def _top_2(num_experts):
    """The paper's MoE-Base: two experts a token, and as many slots."""
    return _switch(_BASE, num_experts, num_selected_experts=2, capacity_factor=2.0)


_BASE_EXPERTS = (8, 16, 32, 64, 128, 256)

# Name of a model: arguments of `SwitchBackbone`.
PRESETS = {
    "switch_tiny_8": _switch(_TINY, 8),
    "switch_mini_8": _switch(_MINI, 8),
    **{f"switch_base_{n}": _switch(_BASE, n) for n in _BASE_EXPERTS},
    "switch_large_128": _switch(_LARGE, 128),
    "switch_xxl_128": _switch(_XXL, 128, eval_capacity_factor=4.0, min_capacity=2),
    "switch_c_2048": _switch(_C, 2048, capacity_factor=1.0, min_capacity=2),
    **{f"moe_base_{n}": _top_2(n) for n in _BASE_EXPERTS},
    "t5_tiny": _TINY,
    "t5_mini": _MINI,
    "t5_base": _BASE,
    "t5_large": _LARGE,
    "t5_xxl": _XXL,
}


# Trained models that come with the package, folders of `pretrained/`.
PRETRAINED = ("switch_micro_english",)
_FOLDER = pathlib.Path(__file__).parent / "pretrained"


def address(name):
    """The folder of a trained model that comes with the package; any other name as it is.

    A folder of that name in the working directory is meant first.
    """
    return str(_FOLDER / name) if name in PRETRAINED and not os.path.isdir(name) else name


def preset(name):
    """Returns the arguments of a preset's `SwitchBackbone`."""
    if name not in PRESETS:
        raise ValueError(_unknown(name))
    return copy.deepcopy(PRESETS[name])


def check_address(name):
    """Requires a preset, a folder of KerasHub's, or an address such as `"hf://..."`."""
    if name in PRESETS or "://" in str(name):
        return
    if not os.path.isdir(name):
        raise ValueError(f"{_unknown(name)} The weights of others give a folder: `{_CONVERT}`.")
    if not _is_of_kerashub(pathlib.Path(name, "config.json")):
        raise ValueError(
            "A preset folder must have the config.json that `save_to_preset` or `keras-switch "
            "convert` writes. If these are the weights of others (Hugging Face, T5X, Mesh "
            f"TensorFlow), convert them: `{_CONVERT.replace('DIR', str(name))}`, and pass "
            f"FOLDER. Received: preset={str(name)!r}"
        )


def _is_of_kerashub(path):
    try:
        return "registered_name" in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, TypeError, ValueError, RecursionError):
        return False


def _unknown(name):
    return (
        "There is no such preset, nor such a folder. "
        f"Received: preset={name!r}; there are {', '.join((*PRETRAINED, *PRESETS))}."
    )


def check_no_weights(name, load_weights):
    """Requires that nobody asks for the weights of a model that is but a name."""
    if load_weights:
        raise ValueError(
            f"No weights come with the name {name!r}. Pass `load_weights=False` for random ones, "
            f"or convert those of others, `{_CONVERT}`, and pass "
            f"FOLDER. Received: preset={name!r}, load_weights={load_weights}"
        )


def check_has_texts(name):
    """Requires a folder or an address, which may have a tokenizer."""
    check_address(name)
    if name in PRESETS:
        raise ValueError(
            f"No tokenizer comes with the name {name!r}. Convert the weights of others, which "
            f"have one, `{_CONVERT}`, and pass FOLDER; or make one of a SentencePiece model, "
            f"`SwitchTokenizer(path)`. Received: preset={name!r}"
        )
