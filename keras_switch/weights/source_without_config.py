"""Checkpoints without a configuration: names and shapes of tensors tell what the model is."""

import inspect

from keras_switch import models
from keras_switch.weights import untrusted_folder
from keras_switch.weights.source import Entry
from keras_switch.weights.source import Source

SIDES = ("encoder", "decoder")


class SourceWithoutConfig(Source):
    """A checkpoint whose tensors are all that is known about its model.

    `arguments` follow from the names and shapes of the tensors. What leaves no trace in them is
    assumed: a ReLU where feed-forwards are not gated, and GELU's tanh approximation where they
    are, as in T5 1.1; relative positions told apart up to 128; an epsilon of 1e-6. A model with
    the sizes of one in `PRESETS` has its dropout and its experts' capacities, the first one's
    where several have those sizes; any other has no dropout, one expert a token, and
    `SwitchDense`'s capacities. `SwitchBackbone.from_preset(folder, switch=...)` takes others.
    """

    def describe(self, folder, weights, switch=None):
        """Fills in the table, the arguments and the tokenizer, if spiece.model was put there.

        Args:
            folder: `pathlib.Path` of the checkpoint's folder.
            weights: Dictionary from names of weights to the tensors that they are.
            switch: Dictionary of `SwitchDense` arguments that the tensors' names tell, which
                then tell `num_selected_experts`. `None` if they tell nothing.

        Raises:
            ValueError: If a block or a weight that every model has is missing, or has the wrong
                rank.
        """
        self._entries, shapes = {}, {}
        for weight, tensor in weights.items():
            shape = self.names_and_shapes[tensor]
            self._entries[weight], shapes[weight] = _entry(weight, tensor, shape)
        self.arguments = _complete(_Shapes(self, shapes).arguments(), switch or {})
        self.assumed = _assumed(self.arguments, switch)
        self.spiece = untrusted_folder.read_spiece(folder)

    def table(self, shapes):
        return {weight: entry for weight, entry in self._entries.items() if weight in shapes}

    def error(self, problem, received):
        """A `ValueError` that names the input."""
        return ValueError(f"{self.title} {problem}. Received: input={str(self.path)!r}, {received}")


def _entry(weight, tensor, shape):
    """A weight's `Entry` and shape: heads may be an axis of their own, and biases have them first.

    With one head, Mesh TensorFlow's biases have no axis of heads.
    """
    if weight.endswith("/position_bias"):
        if len(shape) == 1:
            return Entry((tensor,), shape=shape), (*shape, 1)
        return Entry((tensor,), axes=(1, 0)), shape[::-1]
    if "_attention/" in weight and len(shape) == 3:
        first, second, third = shape
        heads_first = weight.endswith("/output")
        matrix = (first * second, third) if heads_first else (first, second * third)
        return Entry((tensor,), shape=shape), matrix
    return Entry((tensor,)), shape


class _Shapes:
    """Shapes of the weights that a checkpoint has, by name."""

    def __init__(self, source, shapes):
        self.source = source
        self.shapes = shapes

    def get(self, weight, rank):
        """Shape of a weight that the model must have."""
        if weight not in self.shapes:
            raise self.source.error("lacks the tensor of a weight", weight)
        shape = self.shapes[weight]
        if len(shape) != rank or 0 in shape:
            raise self.source.error(
                f"has a tensor of another shape than {rank} positive sizes", f"{weight}: {shape}"
            )
        return shape

    def depth(self, side):
        """Number of a stack's blocks, of which none may be missing."""
        names = (weight.split("/") for weight in self.shapes if weight.startswith(f"{side}/"))
        numbers = sorted({int(name[1]) for name in names if name[1].isdecimal()})
        if numbers != list(range(len(numbers))):
            raise self.source.error(
                f"must have all blocks of the {side}, from 0 on",
                f"{len(numbers)} blocks, of which the last is {numbers[-1]}",
            )
        return len(numbers)

    def sparse_layers(self, side):
        """Numbers of a stack's sparse blocks."""
        blocks = range(self.depth(side))
        return [i for i in blocks if f"{side}/{i}/feed_forward/router" in self.shapes]

    def arguments(self):
        """Arguments of `SwitchBackbone` that shapes tell."""
        vocabulary_size, hidden_dim = self.get("token_embedding", 2)
        num_buckets, num_heads = self.get("encoder/position_bias", 2)
        inner_dim = self.get("encoder/0/self_attention/query", 2)[1]
        if inner_dim % num_heads:
            raise self.source.error(
                "has attention whose width is no multiple of the number of heads",
                f"{inner_dim} and {num_heads}",
            )
        sparse = {side: self.sparse_layers(side) for side in SIDES}
        routers = [f"{side}/{i}/feed_forward/router" for side in SIDES for i in sparse[side]]
        first = "encoder/0/feed_forward"
        is_sparse = 0 in sparse["encoder"]
        gate = f"{first}/{'kernel_gate' if is_sparse else 'gate'}"
        hidden = self.get(f"{first}/{'kernel_in' if is_sparse else 'input'}", 2 + is_sparse)
        return {
            "vocabulary_size": vocabulary_size,
            "num_layers": self.depth("encoder"),
            "num_heads": num_heads,
            "hidden_dim": hidden_dim,
            "intermediate_dim": hidden[-1],
            "num_decoder_layers": self.depth("decoder"),
            "key_value_dim": inner_dim // num_heads,
            "num_experts": self.get(routers[0], 2)[1] if routers else None,
            "encoder_sparse_layers": sparse["encoder"],
            "decoder_sparse_layers": sparse["decoder"],
            "gated": gate in self.shapes,
            "activation": "gelu_approximate" if gate in self.shapes else "relu",
            "tie_embedding_weights": "logits" not in self.shapes,
            "num_buckets": num_buckets,
        }


def _complete(arguments, switch):
    """Adds what a model of these sizes in `PRESETS` has besides."""
    for preset in models.PRESETS.values():
        preset = _with_defaults(preset)
        same = all(preset[name] == value for name, value in arguments.items())
        selected = [x.get("num_selected_experts", 1) for x in (preset["switch"], switch)]
        if same and selected[0] == selected[1]:
            added = {"dropout": preset["dropout"], "switch": {**preset["switch"], **switch}}
            return {**arguments, **added}
    return {**arguments, "switch": switch}


def _assumed(arguments, told):
    """A line about arguments that neither names nor shapes tell."""
    values = {
        "activation": arguments["activation"],
        "max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        "dropout": arguments.get("dropout", 0.0),
    }
    if arguments["num_experts"] is not None:
        told = {} if told is None else {"num_selected_experts": 1, **told}
        switch = {"num_selected_experts": 1, **arguments["switch"]}
        values["switch"] = {name: switch[name] for name in switch if name not in told}
    listed = ", ".join(f"{name}={value!r}" for name, value in values.items())
    return (
        f"The checkpoint does not tell, so this is assumed: {listed}. "
        "`from_preset(folder, ...)` takes other values."
    )


def _with_defaults(preset):
    """Arguments of a preset, with those that it leaves to `SwitchBackbone`."""
    bound = inspect.signature(models.SwitchBackbone.__init__).bind(None, **preset)
    bound.apply_defaults()
    depth = preset["num_layers"]
    every_other = range(1, depth, 2) if "num_experts" in preset else ()
    defaults = {
        "num_decoder_layers": depth,
        "encoder_sparse_layers": every_other,
        "decoder_sparse_layers": every_other,
        "switch": {},
    }
    preset = {**bound.arguments, **defaults, **preset}
    sparse = {f"{side}_sparse_layers": list(preset[f"{side}_sparse_layers"]) for side in SIDES}
    return {**preset, **sparse}
