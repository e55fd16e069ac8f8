"""Texts with blanks, and what a language model fills them with."""

import itertools
import math
import operator
import typing

import numpy as np
from keras import ops

from keras_switch import backend
from keras_switch import checks
from keras_switch.backend import sentinels
from keras_switch.models import cached_decoding
from keras_switch.models.switch_seq_2_seq_lm import SwitchSeq2SeqLM

_SHORTEST = 16  # Rows of ids have the lengths 16, 32, 64, ..., so that few shapes are compiled.


class Fillings(list):
    """What `fill_blanks` found for a text: a list by blank of its candidates.

    A candidate is a pair of its text and its probability; the likeliest comes first.

    Attributes:
        text: string. The whole text with the likeliest fillings.
    """

    def __init__(self, blanks, text):
        super().__init__(blanks)
        self.text = text


def fill_blanks(model, texts, num_candidates=3, max_length=16):
    """Finds what a model fills the blanks of texts with.

    The blanks of a text are filled in the order in which they stand, each one after the likeliest
    fillings of those before. A filling's probability is the product of those of its tokens and
    of its end, which is any sentinel or the end of the text: over all fillings the probabilities
    sum to one. They are those of `generate`, which never writes padding. Candidates are found by
    beam search, with twice as many beams as candidates and at least eight. Only fillings with some
    text and without unknown pieces count, and two with the same text are one candidate, with the
    probability of the likelier.

    The model is compiled at the first call, and again where a text, or its fillings, are more
    than twice as long as any before. No token of any expert is dropped.

    Args:
        model: `SwitchSeq2SeqLM` with a preprocessor, whose tokenizer has sentinels.
        texts: A text, or a list of texts, each with one or more blanks: `<extra_id_0>`,
            `<extra_id_1>`, ... No text is cut.
        num_candidates: int. Candidates of each blank. There are fewer of a blank if the model's
            vocabulary has no more.
        max_length: int. The most tokens of a filling.

    Returns:
        `Fillings`, or a list of them if `texts` is a list: a list by blank of lists of pairs
        `(filling, probability)`, and the attribute `text`, the whole text.

    Raises:
        ValueError: If a text has no blank, one twice, or one that the tokenizer does not know;
            or the model has no preprocessor, or is split by a mesh.

    Example:
    >>> model = keras_switch.models.SwitchSeq2SeqLM.from_preset("my_folder")
    >>> fillings = fill_blanks(model, "The <extra_id_0> walk.", num_candidates=2)
    >>> len(fillings), [len(candidates) for candidates in fillings]
    (1, [2])
    """
    check_takes_texts(model)
    model.parallelism.check_whole("`fill_blanks`")
    num_candidates = checks.check_positive_integer("num_candidates", num_candidates)
    max_length = checks.check_positive_integer("max_length", max_length)
    is_list = isinstance(texts, (list, tuple, np.ndarray))
    rows = [_Text(model.preprocessor.tokenizer, x) for x in (texts if is_list else [texts])]
    if not rows:
        return []
    search = _Search(model, rows, num_candidates, max_length)
    results = [search.fill(row) for row in rows]
    return results if is_list else results[0]


def check_takes_texts(model):
    """Requires a language model with a preprocessor whose pieces it has ids for."""
    if not isinstance(model, SwitchSeq2SeqLM) or model.preprocessor is None:
        raise ValueError(
            "`model` must be a `SwitchSeq2SeqLM` with a preprocessor, whose tokenizer makes ids "
            "of texts: set `model.preprocessor`, or load a folder that has one. "
            f"Received: model={model!r} of type {type(model)}"
        )
    pieces, ids = model.preprocessor.tokenizer.vocabulary_size(), model.backbone.vocabulary_size
    if pieces > ids:
        raise ValueError(
            "The tokenizer must not have more pieces than the model has ids. Received: "
            f"{pieces} pieces, and a model of {ids} ids"
        )


class _Text:
    """A text, its ids with the end, and the names and the ids of its blanks."""

    def __init__(self, tokenizer, text):
        self.text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        if not isinstance(self.text, str):
            raise ValueError(f"`texts` must be a text, or a list of texts. Received: {text!r}")
        self.names = [match[0] for match in sentinels.SENTINEL.finditer(self.text)]
        if not self.names:
            raise ValueError(
                "Each text must have a blank, `<extra_id_0>`, where something is to be filled in. "
                f"Received: {self.text!r}"
            )
        number = tokenizer.num_sentinels
        known = {tokenizer.id_to_token(index): index for index in tokenizer.sentinel_ids}
        unknown = [name for name in self.names if name not in known]
        if unknown:
            raise ValueError(
                f"The tokenizer has {number} sentinels, for as many blanks. Use fewer, or cut the "
                f"text in two. Received: {unknown[0]}"
            )
        if len(set(self.names)) < len(self.names):
            raise ValueError(
                "Each blank must have a sentinel of its own: `<extra_id_0>`, `<extra_id_1>`, ... "
                f"Received: {self.text!r}"
            )
        self.sentinel_ids = [known[name] for name in self.names]
        self.ids = [*map(int, tokenizer.tokenize(self.text)), tokenizer.end_token_id]

    def filled(self, fillings):
        """The text with fillings, which start with a space if they start a word."""
        text = self.text
        for name, filling in zip(self.names, fillings, strict=True):
            before, after = text.split(name)
            stripped = before.rstrip()
            if filling.startswith(" "):
                space = before[len(stripped) :] or " " * bool(stripped)
                filling = space + filling[1:]
            text = stripped + filling + after
        return text


class _Hypothesis(typing.NamedTuple):
    """The ids of a filling, or of its start, and the logarithm of its probability."""

    ids: tuple
    score: float


class _Search:
    """Beam search for one blank after another, with all shapes the same for all the texts."""

    def __init__(self, model, texts, num_candidates, max_length):
        self.backbone, self.tokenizer = model.backbone, model.preprocessor.tokenizer
        self.num_candidates, self.max_length = num_candidates, max_length
        self.num_beams = max(8, 2 * num_candidates)
        self.functions = _functions(model)
        self.encoder_length = _rounded(max(len(text.ids) for text in texts))
        most = max(len(text.names) for text in texts)
        self.decoder_length = _rounded(1 + most * (1 + max_length))

    def fill(self, text):
        """Returns the `Fillings` of a text."""
        padding = self.encoder_length - len(text.ids)
        ids = [*text.ids, *[self.tokenizer.pad_token_id] * padding]
        mask = [1] * len(text.ids) + [0] * padding
        memory = self.functions.read(
            *(ops.convert_to_tensor([row], "int32") for row in (ids, mask))
        )
        caches = cached_decoding.empty_caches(self.backbone, self.num_beams, self.decoder_length)
        fed, blanks, best = [self.tokenizer.pad_token_id], [], []
        index = 0
        for sentinel in text.sentinel_ids:
            for token in fed:
                _, caches = self._feed(memory, caches, [token] * self.num_beams, index)
                index += 1
            found = self._candidates(memory, caches, sentinel, index)
            blanks.append([(filling, math.exp(x.score)) for filling, x in found.items()])
            ids = next(iter(found.values())).ids
            is_word = self.tokenizer.id_to_token(ids[0]).startswith("▁")
            best.append(" " * is_word + blanks[-1][0][0])
            fed = [sentinel, *ids]
        return Fillings(blanks, text.filled(best))

    def _feed(self, memory, caches, tokens, index, parents=None):
        """Feeds each beam a token; returns what may follow, as arrays, and the caches."""
        parents = range(self.num_beams) if parents is None else parents
        arguments = (ops.convert_to_tensor(list(x), "int32") for x in (tokens, parents))
        index = ops.convert_to_tensor(index, "int32")
        *following, caches = self.functions.step(memory, caches, *arguments, index)
        return following, caches

    def _candidates(self, memory, caches, sentinel, index):
        """The likeliest `_Hypothesis` after a sentinel, by their texts."""
        beams, found = [_Hypothesis((), 0.0)], {}
        tokens, parents = [sentinel] * self.num_beams, None
        for length in range(self.max_length + 1):
            following, caches = self._feed(memory, caches, tokens, index + length, parents)
            scores, words, ends = map(ops.convert_to_numpy, following)
            if length:
                found = self._with_ended(found, beams, ends)
            options = [
                (_Hypothesis((*beam.ids, int(word)), beam.score + float(score)), row)
                for row, beam in enumerate(beams)
                for score, word in zip(scores[row], words[row], strict=True)
            ]
            options = sorted(options, key=lambda x: -x[0].score)[: self.num_beams]
            beams, parents = zip(*options, strict=True)
            worst = list(found.values())[self.num_candidates - 1 : self.num_candidates]
            # No filling is likelier than its start.
            if worst and worst[0].score >= beams[0].score:
                break
            rest = self.num_beams - len(beams)
            tokens = [beam.ids[-1] for beam in beams] + [sentinel] * rest
            parents = (*parents, *[0] * rest)
        return dict(itertools.islice(found.items(), self.num_candidates))

    def _with_ended(self, found, beams, ends):
        """`found`, the likeliest first, and the beams as they are if they end here."""
        texts = self.tokenizer.detokenize([list(beam.ids) for beam in beams])
        texts = [x.decode() if isinstance(x, bytes) else x for x in np.asarray(texts).tolist()]
        pairs = list(found.items())
        for filling, beam, end in zip(texts, beams, ends, strict=False):
            pairs.append((filling.strip(), beam._replace(score=beam.score + float(end))))
        found = {}
        for filling, hypothesis in sorted(pairs, key=lambda x: -x[1].score):
            if filling:
                found.setdefault(filling, hypothesis)
        return found


def _rounded(length):
    return max(_SHORTEST, 2 ** math.ceil(math.log2(length)))


class _Functions:
    """Two compiled functions of a model, and what they were compiled of.

    `read` reads a text's ids and mask. `step` feeds each beam a token, and returns the logarithms
    of the probabilities of the likeliest words that may follow, these words, the logarithm of the
    probability of an end, and the caches.
    """

    def __init__(self, model):
        self.variables, self.tokenizer = model.variables, model.preprocessor.tokenizer
        backbone, tokenizer = model.backbone, self.tokenizer
        ids = np.arange(backbone.vocabulary_size)
        is_end = np.isin(ids, [*tokenizer.sentinel_ids, tokenizer.end_token_id])
        # A piece that no vocabulary has gives the id of the unknown ones.
        no_words = [tokenizer.pad_token_id, tokenizer.token_to_id("")]
        is_word = ~is_end & ~np.isin(ids, no_words) & (ids < tokenizer.vocabulary_size())

        def read(ids, mask):
            return cached_decoding.read(backbone, ids, mask)

        def step(memory, caches, tokens, parents, index):
            caches = [ops.take(cache, parents, axis=0) for cache in caches]
            x, caches = cached_decoding.step(backbone, tokens[:, None], index, caches, memory)
            logits = cached_decoding.without_padding(backbone.logits(x)[:, 0])
            scores = ops.log_softmax(logits, axis=-1)
            ends = ops.logsumexp(ops.where(is_end, scores, -np.inf), axis=-1)
            number = min(tokens.shape[0], int(is_word.sum()))
            best, words = ops.top_k(ops.where(is_word, scores, -np.inf), number)
            return best, words, ends, caches

        self.read = backend.compiled(read, self.variables)
        self.step = backend.compiled(step, self.variables)

    def are_of(self, model):
        """Whether the model still has the same variables, and the same tokenizer."""
        same = len(self.variables) == len(model.variables)
        same = same and all(map(operator.is_, self.variables, model.variables))
        return same and self.tokenizer is model.preprocessor.tokenizer


def _functions(model):
    """The `_Functions` of a model, which it keeps."""
    functions = getattr(model, "_fill_functions", None)
    if functions is None or not functions.are_of(model):
        model._fill_functions = functions = _Functions(model)
    return functions
