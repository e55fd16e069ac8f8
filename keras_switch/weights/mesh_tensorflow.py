"""Mesh TensorFlow's checkpoints, under the names of its Transformer and its experts."""

import glob
import math
import re

import tensorflow as tf

from keras_switch.weights import untrusted_folder
from keras_switch.weights.source_without_config import SourceWithoutConfig

_STATE = "checkpoint"
_FLOATS = ("float64", "float32", "float16", "bfloat16")
_SLOT = re.compile(r"(.+?)(?:_slot_(?:v|vr|vc|m)|/adam_[mv]|_momentum_v)")
_LAYER = re.compile(r"(encoder|decoder)/(?:block_([0-9]{1,6})/)?layer_([0-9]{1,6})/([^/]+)/(.+)")
_ORDERS = {
    "encoder": ("SelfAttention", "DenseReluDense"),
    "decoder": ("SelfAttention", "EncDecAttention", "DenseReluDense"),
}
# T5's first release has it, and no implementation uses it.
_UNUSED = re.compile("decoder/(block_000/)?layer_001/EncDecAttention/relative_attention_bias")
_TENSORS = {
    "shared/embedding": "token_embedding",
    "decoder/logits/kernel": "logits",
    "encoder/rms_norm/scale": "encoder/norm",
    "decoder/rms_norm/scale": "decoder/norm",
    "encoder/final_layer_norm/scale": "encoder/norm",
    "decoder/final_layer_norm/scale": "decoder/norm",
}
_ATTENTION = {"q": "query", "k": "key", "v": "value", "o": "output"}
_LAYERS = {
    "SelfAttention": {name: f"self_attention/{ours}" for name, ours in _ATTENTION.items()},
    "EncDecAttention": {name: f"cross_attention/{ours}" for name, ours in _ATTENTION.items()},
    "DenseReluDense": {
        "wi/kernel": "feed_forward/input",
        "wi_0/kernel": "feed_forward/gate",
        "wi_1/kernel": "feed_forward/input",
        "wo/kernel": "feed_forward/output",
    },
    "MoE1D": {
        "switch_gating/kernel": "feed_forward/router",
        "top_2_gating/kernel": "feed_forward/router",
        "ntlb_gating/kernel": "feed_forward/router",
        "wi/kernel": "feed_forward/kernel_in",
        "wi_0/kernel": "feed_forward/kernel_gate",
        "wi_1/kernel": "feed_forward/kernel_in",
        "wo/kernel": "feed_forward/kernel_out",
    },
}
_NORM_NAMES = ("rms_norm", "layer_norm")
_NORMS = {
    "SelfAttention": "self_attention_norm",
    "EncDecAttention": "cross_attention_norm",
    "DenseReluDense": "feed_forward_norm",
    "MoE1D": "feed_forward_norm",
}
_GATINGS = {
    "switch_gating/kernel": {},
    "top_2_gating/kernel": {"num_selected_experts": 2},
    "ntlb_gating/kernel": {"overflow": "reroute"},
}


class MeshTensorFlow(SourceWithoutConfig):
    """A checkpoint of Mesh TensorFlow's Transformer, in which T5 and the paper's models were made.

    Our blocks follow from the order of its layers, which it groups into blocks as it likes:
    self-attention, in a decoder attention to the encoder, then a feed-forward or experts. The
    gating's name tells `num_selected_experts=2` and `overflow="reroute"`. The optimizer's slots
    are left out. Its experts in attention have one router where ours have two: they are refused.

    Args:
        path: `pathlib.Path` of a folder with TensorFlow's file `checkpoint`, which names the
            latest checkpoint, or the prefix of one, such as `model.ckpt-1000`.

    Raises:
        ValueError: If it is broken, or has other layers, or one of its files is elsewhere.
        FileNotFoundError: If a file is missing.
    """

    title = "Mesh TensorFlow (model.ckpt-N.index, and `checkpoint`, which names it)"

    def __init__(self, path):
        super().__init__(path)
        prefix = path if _has_index(path) else self._latest(path.resolve())
        try:
            self._reader = tf.train.load_checkpoint(str(prefix))
        except (tf.errors.OpError, ValueError) as error:
            raise self.error("cannot be read", _first_line(error)) from error
        shapes = self._reader.get_variable_to_shape_map()
        self.names_and_shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.ignored = frozenset(name for name in shapes if self._is_no_weight(name))
        self._check_files(prefix)
        weights, switch = self._weights()
        self.describe(prefix.parent, weights, switch)

    @classmethod
    def recognises(cls, path):
        if _has_index(path):
            return True
        state = path / _STATE
        if not state.is_file():
            return False
        with state.open("rb") as file:
            return file.read(21) == b"model_checkpoint_path"

    def read(self, name):
        try:
            return self._reader.get_tensor(name)
        except (tf.errors.OpError, ValueError) as error:
            problem = f"{name}: {_first_line(error)}"
            raise self.error("has a tensor that cannot be read", problem) from error

    def _latest(self, folder):
        """Prefix of the checkpoint that the file `checkpoint` names."""
        untrusted_folder.inside(folder, _STATE)
        state = tf.train.get_checkpoint_state(str(folder))
        if state is None:
            raise self.error("has a broken file `checkpoint`", "no model_checkpoint_path")
        prefix = folder / state.model_checkpoint_path
        if prefix.resolve().parent != folder:
            raise self.error(
                "names a checkpoint outside its folder. Give a checkpoint's prefix as the input, "
                "such as DIR/model.ckpt-1000",
                f"model_checkpoint_path={state.model_checkpoint_path!r}",
            )
        if not _has_index(prefix):
            raise FileNotFoundError(
                f"{self.title} lacks a file. Received: input={str(self.path)!r}, "
                f"{prefix.name}.index"
            )
        return prefix

    def _is_no_weight(self, name):
        """Whether a tensor is unused, or the optimizer's: the step, or a slot of a tensor here."""
        slot = _SLOT.fullmatch(name)
        is_slot = slot is not None and slot[1] in self.names_and_shapes
        return is_slot or name == "global_step" or _UNUSED.fullmatch(name) is not None

    def _check_files(self, prefix):
        """Requires dtypes of weights, and files in the folder that are large enough."""
        dtypes = self._reader.get_variable_to_dtype_map()
        other = [
            f"{name}: {dtype.name}"
            for name, dtype in dtypes.items()
            if name not in self.ignored and dtype.name not in _FLOATS
        ]
        if other:
            raise self.error(f"must have tensors of {', '.join(_FLOATS)}", min(other))
        files = list(prefix.parent.glob(f"{glob.escape(prefix.name)}.data-*-of-*"))
        for file in (*files, _index(prefix)):
            if file.resolve().parent != prefix.parent.resolve():
                raise self.error("has a file that is a link out of its folder", file.name)
        needed = sum(
            math.prod(shape) * dtypes[name].size for name, shape in self.names_and_shapes.items()
        )
        stored = sum(file.stat().st_size for file in files)
        if needed > stored:
            raise self.error("is incomplete", f"{stored} of {needed} bytes")

    def _weights(self):
        """Tensors by the names of weights, and the arguments that the gatings tell."""
        layers = {side: {} for side in _ORDERS}
        weights, gatings = {}, {}
        for name in sorted(self.names_and_shapes.keys() - self.ignored):
            match = _LAYER.fullmatch(name)
            if match is not None:
                side, block, layer, kind, rest = match.groups()
                place = int(block or 0), int(layer)
                layers[side].setdefault(place, {})[kind, rest] = name
            elif name in _TENSORS:
                weights.setdefault(_TENSORS[name], name)
        for side, places in layers.items():
            for index, (_, tensors) in enumerate(sorted(places.items())):
                kind = self._kind(side, index, tensors)
                block = f"{side}/{index // len(_ORDERS[side])}"
                for (part, rest), name in tensors.items():
                    weight = _weight(block, kind, part, rest)
                    if weight is not None:
                        weights.setdefault(weight, name)
                    if kind == "MoE1D" and rest.endswith("_gating/kernel"):
                        gatings[rest] = name
        if len(gatings) > 1 or not gatings.keys() <= _GATINGS.keys():
            raise self.error(
                f"must have one gating for all experts: {' or '.join(_GATINGS)}",
                ", ".join(gatings.values()),
            )
        return weights, next((_GATINGS[rest] for rest in gatings), {})

    def _kind(self, side, index, tensors):
        """Name of a layer, which must be the one that is due."""
        due = _ORDERS[side][index % len(_ORDERS[side])]
        due = (due, "MoE1D") if due == "DenseReluDense" else (due,)
        kinds = {part for part, _ in tensors} - {*_NORM_NAMES}
        if len(kinds) != 1 or not kinds <= {*due}:
            raise self.error(
                f"must have {' or '.join(due)} as layer {index} of the {side}, as a "
                "`SwitchBackbone` has",
                ", ".join(sorted(tensors.values())[:4]),
            )
        return kinds.pop()


def _weight(block, kind, part, rest):
    """Our name of a tensor of a layer, or `None`."""
    side, number = block.split("/")
    if part in _NORM_NAMES:
        return f"{block}/{_NORMS[kind]}" if rest == "scale" else None
    if (kind, number, rest) == ("SelfAttention", "0", "relative_attention_bias"):
        return f"{side}/position_bias"
    return f"{block}/{_LAYERS[kind][rest]}" if rest in _LAYERS[kind] else None


def _index(prefix):
    return prefix.with_name(f"{prefix.name}.index")


def _has_index(prefix):
    """Whether a path is the prefix of a checkpoint."""
    return prefix.name != "" and _index(prefix).is_file()


def _first_line(error):
    return str(error).split("\n")[0]
