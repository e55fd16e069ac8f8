"""The text of a pre-training run: its tokenizer, and batches to train on and to validate with."""

import dataclasses
import os
import time
import typing

from keras_switch import data
from keras_switch.configs import LARGEST_SEED
from keras_switch.data import corpus as corpus_module
from keras_switch.data import shards
from keras_switch.data.two_lengths import TwoLengths
from keras_switch.models import SwitchTokenizer
from keras_switch.training import run_directory

NUM_QUESTIONS = 4
_QUESTION = 24  # Tokens of a question made of prepared ones.


class Stage(typing.NamedTuple):
    """Epochs of a run whose texts have the same length.

    Attributes:
        first_epoch: int.
        first_step: int.
        train: `SpanCorruptionBatches`, or `TwoLengths` of them.
        held_out: `SpanCorruptionBatches`.
    """

    first_epoch: int
    first_step: int
    train: data.SpanCorruptionBatches | TwoLengths
    held_out: data.SpanCorruptionBatches


class Corpus:
    """What a run reads: text in memory, or tokens that `keras-switch prepare` left on the disk.

    2% of it are held out: of text, lines that are spread over all of it; of tokens, the last ones.

    Args:
        config: `PretrainConfig`.

    Attributes:
        sha256: string. Its digest.

    Raises:
        ValueError: If the corpus cannot be read, or has a vocabulary and the config another.
    """

    def __init__(self, config):
        self.config = config
        self.prepared = None
        if os.path.isfile(os.path.join(config.corpus, shards.INDEX)):
            self.prepared = data.PreparedTokens(config.corpus)
            self.sha256 = self.prepared.sha256
            if config.vocabulary:
                raise ValueError(
                    "`vocabulary` must not be given: prepared tokens have one. "
                    f"Received: vocabulary={config.vocabulary!r}, corpus={config.corpus!r}"
                )
        else:
            lines = data.read_corpus(config.corpus or None)
            self.sha256 = run_directory.digest(lines)
            self.lines = corpus_module.split_corpus(lines)

    def tokenizer(self):
        """Returns that of the tokens, or of the config, or one trained on the text."""
        if self.prepared:
            return SwitchTokenizer(self.prepared.tokenizer_path)
        proto = self.config.vocabulary or data.train_sentencepiece(
            self.lines[0], self.config.vocabulary_size
        )
        return SwitchTokenizer(proto)

    def tokens(self, tokenizer):
        """Returns the tokens to train on, and those that are held out."""
        if not self.prepared:
            return [data.tokenize_corpus(part, tokenizer) for part in self.lines]
        size, end = len(self.prepared), len(self.prepared) * 49 // 50
        return [self.prepared.part(0, end), self.prepared.part(end, size)]

    def questions(self, tokenizer):
        """Returns `Question`s of what is held out."""
        if not self.prepared:
            return corpus_module.questions(self.lines[1], NUM_QUESTIONS)
        held_out = self.tokens(tokenizer)[1]
        starts = range(0, len(held_out) - _QUESTION, len(held_out) // NUM_QUESTIONS)
        texts = [tokenizer.detokenize(row) for row in held_out.read(starts, _QUESTION)]
        return [corpus_module.questions([text], 1)[0] for text in texts]


def prepare(config, corpus, tokenizer=None):
    """Returns the tokenizer, and the stages of a run: on short texts, then on long and short ones.

    Args:
        config: `PretrainConfig`.
        corpus: `Corpus`.
        tokenizer: `SwitchTokenizer`. Defaults to the corpus's.

    Raises:
        ValueError: If the text, or the part of it that is held out, is too short.
    """
    start = time.perf_counter()
    tokenizer = tokenizer or corpus.tokenizer()
    tokens = corpus.tokens(tokenizer)
    stages = []
    if has_short_texts(config):
        stages.append(_stage(config, tokenizer, tokens, config.short_inputs_length, 0))
    if config.epochs > config.short_epochs or not stages:
        first = config.short_epochs if stages else 0
        stages.append(_stage(config, tokenizer, tokens, config.inputs_length, first))
    print(
        f"Data: {len(tokens[0]):,} tokens of a vocabulary of {tokenizer.vocabulary_size():,}, "
        f"{stages[-1].train.batches_per_epoch:,} batches a pass "
        f"({time.perf_counter() - start:.0f} s)."
    )
    return tokenizer, stages


def has_short_texts(config):
    """Whether a run begins with texts that are shorter than its own."""
    return config.short_epochs > 0 and config.short_inputs_length < config.inputs_length


def _stage(config, tokenizer, tokens, inputs_length, first_epoch):
    """A stage whose batches have about as many tokens as those of the full length."""
    rows = config.batch_size * (config.inputs_length // inputs_length)
    train, held_out = _batches(config, tokenizer, tokens, inputs_length, rows)
    if first_epoch:
        short, half = config.short_inputs_length, rows // 2
        # With a seed of their own, or they would be the texts of the first epochs once more.
        other = dataclasses.replace(config, seed=(config.seed + 2) % LARGEST_SEED)
        train = TwoLengths(
            _batches(config, tokenizer, tokens, inputs_length, half)[0],
            _batches(other, tokenizer, tokens, short, half * (inputs_length // short))[0],
        )
    return Stage(first_epoch, first_epoch * config.steps_per_epoch, train, held_out)


def _batches(config, tokenizer, tokens, inputs_length, batch_size):
    """Batches of the text to train on, and of the text that is held out."""
    noise = {"noise_density": config.noise_density, "mean_span_length": config.mean_span_length}
    train = data.SpanCorruptionBatches(
        tokens[0], tokenizer, inputs_length, batch_size, **noise, seed=config.seed
    )
    try:
        # Two texts at least, so that each can get the inputs of another one.
        held_out = data.SpanCorruptionBatches(
            tokens[1], tokenizer, inputs_length, max(2, batch_size), **noise, seed=config.seed + 1
        )
    except ValueError as error:
        raise ValueError(
            "The part of the corpus that is held out, 2% of it, is too short. Give a "
            f"longer corpus, or a smaller `batch_size` or `inputs_length`. {error}"
        ) from None
    return train, held_out
