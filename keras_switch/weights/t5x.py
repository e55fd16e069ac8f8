"""T5X's checkpoints, under its names and Flaxformer's."""

import re

from keras_switch.weights import t5x_tensors
from keras_switch.weights import untrusted_folder
from keras_switch.weights.source_without_config import SourceWithoutConfig

_INDEX = "checkpoint"
_VERSIONS = (2, 3)
_MAPS = (*range(0x80, 0x90), 0xDE, 0xDF)  # First bytes of msgpack's dictionaries.

_TENSORS = {
    "token_embedder/embedding": "token_embedding",
    "decoder/logits_dense/kernel": "logits",
    "encoder/relpos_bias/rel_embedding": "encoder/position_bias",
    "decoder/relpos_bias/rel_embedding": "decoder/position_bias",
    "encoder/encoder_norm/scale": "encoder/norm",
    "decoder/decoder_norm/scale": "decoder/norm",
}
_FEED_FORWARD = {
    "pre_mlp_layer_norm/scale": "feed_forward_norm",
    "mlp/wi/kernel": "feed_forward/input",
    "mlp/wi_0/kernel": "feed_forward/gate",
    "mlp/wi_1/kernel": "feed_forward/input",
    "mlp/wo/kernel": "feed_forward/output",
    "mlp/router/router_weights/w/kernel": "feed_forward/router",
    "mlp/expert/wi/kernel": "feed_forward/kernel_in",
    "mlp/expert/wi_0/kernel": "feed_forward/kernel_gate",
    "mlp/expert/wi_1/kernel": "feed_forward/kernel_in",
    "mlp/expert/wo/kernel": "feed_forward/kernel_out",
}


def _attention(theirs, ours, norm):
    parts = {"query": "query", "key": "key", "value": "value", "out": "output"}
    names = {f"{theirs}/{part}/kernel": f"{ours}/{name}" for part, name in parts.items()}
    return {**names, f"{norm}/scale": f"{ours}_norm"}


_BLOCKS = {
    "encoder": {
        **_attention("attention", "self_attention", "pre_attention_layer_norm"),
        **_FEED_FORWARD,
    },
    "decoder": {
        **_attention("self_attention", "self_attention", "pre_self_attention_layer_norm"),
        **_attention(
            "encoder_decoder_attention", "cross_attention", "pre_cross_attention_layer_norm"
        ),
        **_FEED_FORWARD,
    },
}


class T5X(SourceWithoutConfig):
    """A checkpoint of T5X: the folder `checkpoint_N`, or a single file that holds everything.

    T5X's own layout is read, a dictionary of `version` (2 or 3) and `optimizer`, and Flax's and
    Orbax's, without these two. Below are `target`, the model, and `state`, the optimizer's,
    which is left out. Tensors are in the msgpack file, or in zarr arrays that it refers to.

    Args:
        path: `pathlib.Path` of the folder or the file.

    Raises:
        ValueError: If it is broken, refers to something outside its folder, or has layers that
            were scanned.
        FileNotFoundError: If an array is missing.
        ImportError: If msgpack or tensorstore is not installed.
    """

    title = "T5X (a msgpack file `checkpoint`, and zarr arrays)"

    def __init__(self, path):
        super().__init__(path)
        file = _index(path)
        file = untrusted_folder.inside(file.parent, file.name)
        try:
            contents = t5x_tensors.unpack(file)
        except ValueError as error:
            raise self.error("has a broken msgpack file", f"{type(error).__name__} {error}") from (
                error
            )
        self._tensors = {}
        for name, leaf in self._flatten(self._target(contents)):
            self._tensors[name] = self._open(file.parent.resolve(), name, leaf)
        try:
            t5x_tensors.check_sizes(self._tensors.values())
        except ValueError as error:
            raise self.error("is too small for what it says", str(error)) from error
        self.names_and_shapes = {name: tensor.shape for name, tensor in self._tensors.items()}
        weights = {}
        for name in self._tensors:
            weights.setdefault(_weight(name), name)
        weights.pop(None, None)
        self.describe(file.parent, weights)

    @classmethod
    def recognises(cls, path):
        file = _index(path)
        if not file.is_file():
            return False
        with file.open("rb") as opened:
            first = opened.read(1)
        return bool(first) and first[0] in _MAPS

    def read(self, name):
        try:
            return self._tensors[name].read()
        except ValueError as error:
            raise self.error("has a tensor that cannot be read", f"{name}: {error}") from error

    def _target(self, contents):
        """The dictionary of the model's tensors."""
        if isinstance(contents, dict) and "version" in contents:
            if contents["version"] not in _VERSIONS or contents.keys() != {"version", "optimizer"}:
                raise self.error(
                    "must have `optimizer` and version 2 or 3",
                    f"version={contents['version']!r}, keys={list(contents)}",
                )
            contents = contents["optimizer"]
        if not isinstance(contents, dict) or not isinstance(contents.get("target"), dict):
            keys = list(contents)[:8] if isinstance(contents, dict) else type(contents).__name__
            raise self.error("must have the model in `target`", f"keys={keys}")
        unknown = [key for key in contents if key not in ("target", "state") and contents[key]]
        if unknown:
            raise self.error("must have nothing besides `target` and `state`", f"keys={unknown}")
        return contents["target"]

    def _flatten(self, target):
        """Yields the name of each tensor, and what the file has for it."""
        levels = [("", target)]
        while levels:
            prefix, level = levels.pop()
            for key, value in level.items():
                name = f"{prefix}{key}"
                if not isinstance(key, str) or "/" in key:
                    raise self.error("has a name that is none", repr(name))
                if re.fullmatch("encoder/encoder|decoder/decoder", name):
                    raise self.error(
                        "has scanned layers, which are one tensor. Write it with scan_layers=False",
                        name,
                    )
                if t5x_tensors.is_tensor(value):
                    yield name, value
                else:
                    levels.append((f"{name}/", value))

    def _open(self, folder, name, leaf):
        try:
            return t5x_tensors.open_tensor(folder, leaf)
        except ValueError as error:
            raise self.error("has a broken tensor", f"{name}: {error}") from error


def _index(path):
    """The msgpack file."""
    return path / _INDEX if path.is_dir() else path


def _weight(name):
    """Our name of a tensor, or `None`."""
    if name in _TENSORS:
        return _TENSORS[name]
    match = re.fullmatch(r"(encoder|decoder)/layers_(0|[1-9][0-9]{0,5})/(.+)", name)
    if match is None or match[3] not in _BLOCKS[match[1]]:
        return None
    return f"{match[1]}/{match[2]}/{_BLOCKS[match[1]][match[3]]}"
