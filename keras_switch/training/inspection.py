"""Which tokens the experts of a trained model take."""

import contextlib
import itertools
import typing

import numpy as np
from keras import ops

from keras_switch import backend
from keras_switch import checks
from keras_switch.layers import SwitchDense

CAPACITY_FACTORS = (1.0, 1.25, 1.5, 2.0)
# An expert is dead if its load is below this: one token where an even share would be a hundred.
DEAD_BELOW = 0.01
# As if each piece had been seen so many times more, spread over the experts as all others are.
_PSEUDO_COUNT = 10.0


class Expert(typing.NamedTuple):
    """What one expert takes.

    Attributes:
        load: float. Its tokens over an even share.
        typical: List of pairs of a piece and its lift: how many times more of the expert's tokens
            are this piece than of all tokens. Rare pieces are taken for less typical than they
            look.
        frequent: List of pairs of a piece and how many of the expert's tokens are this piece.
    """

    load: float
    typical: list
    frequent: list


class Layer(typing.NamedTuple):
    """What a sparse layer does.

    Attributes:
        name: string, such as `"encoder_block_1"`.
        num_tokens: int. Tokens that it read, without padding.
        entropy: float. Mean entropy of its router, in nats.
        dropped: Dictionary from capacity factors to the fraction of the tokens that no expert
            took.
        experts: List of `Expert`s.
    """

    name: str
    num_tokens: int
    entropy: float
    dropped: dict
    experts: list

    @property
    def dead(self):
        """Numbers of the experts that take next to no tokens."""
        return [i for i, expert in enumerate(self.experts) if expert.load < DEAD_BELOW]

    def __str__(self):
        return "\n".join(_table(self))


class Inspection(list):
    """A list of `Layer`s; as a string, a table of each."""

    def __str__(self):
        return "\n\n".join(map(str, self))


def inspect_experts(model, batches, num_pieces=8, capacity_factors=CAPACITY_FACTORS):
    """Finds which tokens each expert takes in the feed-forwards of a language model.

    The tokens are counted before capacity: as the router chooses. With
    `routing="expert_choice"` they are those that the experts take.

    Args:
        model: `SwitchSeq2SeqLM` with experts. Pieces have names if it has a preprocessor.
        batches: Iterable of the model's inputs, dictionaries of arrays, or of tuples that start
            with them, as a dataset for `fit` gives. Batches of one shape are compiled once.
        num_pieces: int. Typical, and frequent, pieces of each expert.
        capacity_factors: Sequence of floats, for each of which dropped tokens are counted.

    Returns:
        `Inspection`, a list of `Layer`s: the encoder's first.

    Raises:
        ValueError: If there is no batch, the model has no experts or is split by a mesh.

    Example:
    >>> preset = keras_switch.models.SwitchSeq2SeqLM.from_preset
    >>> model = preset("switch_tiny_8", load_weights=False)
    >>> ids = np.ones((2, 7), "int32")
    >>> inspection = inspect_experts(model, [{x.name: ids for x in model.inputs}])
    >>> [layer.name for layer in inspection][:2]
    ['encoder_block_1', 'encoder_block_3']
    """
    model.parallelism.check_whole("`inspect_experts`")
    num_pieces = checks.check_positive_integer("num_pieces", num_pieces)
    factors = [checks.check_positive_number("capacity_factors", x) for x in capacity_factors]
    layers = _sparse_layers(model.backbone)
    if not layers:
        raise ValueError("`model` must have experts. Received: a model of dense blocks")
    look = backend.compiled(lambda inputs: _look(model, layers, factors, inputs), model.variables)
    totals = {}
    for batch in batches:
        inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
        inputs = {x.name: np.asarray(inputs[x.name], "int32") for x in model.inputs}
        found = look({name: ops.convert_to_tensor(value) for name, value in inputs.items()})
        for name, seen in found.items():
            ids = inputs[f"{name.split('_')[0]}_token_ids"]
            counts = _count(model, ids, *map(ops.convert_to_numpy, seen))
            totals[name] = [a + b for a, b in zip(totals.get(name, [0] * 4), counts, strict=True)]
    if not totals:
        raise ValueError("`batches` must hold a batch. Received: none")
    names = _pieces(model)
    return Inspection(_layer(x, *totals[x], names, num_pieces, factors) for x in layers)


def _sparse_layers(backbone):
    """The `SwitchDense` feed-forwards by the names of their blocks."""
    blocks = itertools.chain(backbone.encoder_blocks, backbone.decoder_blocks)
    pairs = ((block.name, block.feed_forward) for block in blocks)
    return {name: layer for name, layer in pairs if isinstance(layer, SwitchDense)}


def _look(model, layers, factors, inputs):
    """Of each layer the tokens' experts, `E` for none, the sum of entropies, and lost tokens."""
    found = {}

    def look(layer, x, mask):
        mask = ops.ones(ops.shape(x)[:-1], "bool") if mask is None else ops.cast(mask, "bool")
        record = layer.route(x, mask)
        chosen = mask[..., None] if layer.algorithm.is_token_wise else record.kept
        entropies = -ops.sum(record.probabilities * ops.log(record.probabilities + 1e-9), axis=-1)
        lost = []
        for factor in factors:
            with _set(layer, capacity_factor=factor, eval_capacity_factor=factor):
                kept = ops.any(layer.route(x, mask).kept, axis=-1)
            lost.append(ops.sum(ops.cast(ops.logical_and(mask, ops.logical_not(kept)), "int32")))
        return (
            ops.where(chosen, record.experts, layer.num_experts),
            ops.sum(ops.where(mask, entropies, 0.0)),
            ops.stack(lost) if lost else ops.zeros((0,), "int32"),
            mask,
        )

    def watched(name, layer):
        call = layer.call

        def call_and_look(inputs, mask=None, training=None):
            found[name] = look(layer, inputs, mask)
            return call(inputs, mask=mask, training=training)

        return call_and_look

    with contextlib.ExitStack() as stack:
        for name, layer in layers.items():
            stack.enter_context(_set(layer, call=watched(name, layer)))
        model(inputs, training=False)
    return found


@contextlib.contextmanager
def _set(thing, **values):
    """Sets attributes of an object for the `with` block."""
    before = {name: vars(thing)[name] for name in values if name in vars(thing)}
    for name, value in values.items():
        setattr(thing, name, value)
    try:
        yield
    finally:
        for name in values:
            if name in before:
                setattr(thing, name, before[name])
            else:
                delattr(thing, name)


def _count(model, ids, experts, entropy, lost, mask):
    """Tokens by piece and expert `(V, E)`, sum of entropies, lost tokens, number of tokens."""
    num_experts, size = model.backbone.num_experts, model.backbone.vocabulary_size
    # Every choice of a token counts; the last column holds what is none.
    flat = ids[..., None].astype("int64") * (num_experts + 1) + experts
    counts = np.bincount(flat.ravel(), minlength=size * (num_experts + 1))
    counts = counts.reshape(size, num_experts + 1)[:, :-1]
    return counts, float(entropy), lost.astype("int64"), int(mask.sum())


def _pieces(model):
    """The name of each id."""
    size = model.backbone.vocabulary_size
    if getattr(model, "preprocessor", None) is None:
        return [str(index) for index in range(size)]
    names = model.preprocessor.tokenizer.get_vocabulary()
    return [*names, *map(str, range(len(names), size))]


def _layer(name, counts, entropy, lost, num_tokens, names, num_pieces, factors):
    by_expert = counts.sum(axis=0)
    share = by_expert / max(by_expert.sum(), 1)
    lift = (counts + _PSEUDO_COUNT * share) / (counts.sum(1, keepdims=True) + _PSEUDO_COUNT)
    lift = lift / np.maximum(share, 1e-12)

    def largest(values, expert):
        column = np.where(counts[:, expert] > 0, values[:, expert], -1)
        order = np.argsort(-column, kind="stable")[:num_pieces]
        return [(names[i], column[i].item()) for i in order if column[i] > 0]

    experts = [
        Expert(float(share[e] * len(share)), largest(lift, e), largest(counts, e))
        for e in range(len(share))
    ]
    num_tokens = max(num_tokens, 1)
    dropped = dict(zip(factors, (lost / num_tokens).tolist(), strict=True))
    return Layer(name, num_tokens, entropy / num_tokens, dropped, experts)


def _table(layer):
    dead = ", ".join(map(str, layer.dead)) or "none"
    dropped = ", ".join(f"{share:.1%} at {factor:g}" for factor, share in layer.dropped.items())
    yield f"{layer.name}: {len(layer.experts)} experts, {layer.num_tokens:,} tokens"
    yield f"  dead experts: {dead}"
    yield f"  dropped, by capacity factor: {dropped or 'not counted'}"
    yield (
        f"  entropy of the router: {layer.entropy:.2f} nats, of at most "
        f"{np.log(len(layer.experts)):.2f}"
    )
    typical = [" ".join(piece for piece, _ in expert.typical) for expert in layer.experts]
    width = max(map(len, [*typical, "most typical"]))
    yield f"  expert  load  {'most typical':{width}}  most frequent"
    for number, expert in enumerate(layer.experts):
        frequent = " ".join(piece for piece, _ in expert.frequent)
        row = f"  {number:6}  {expert.load:4.2f}  {typical[number]:{width}}  {frequent}"
        yield row.rstrip()
