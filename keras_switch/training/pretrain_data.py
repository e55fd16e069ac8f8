"""The text of a pre-training run: its tokenizer, and batches to train on and to validate with."""

import time
import typing

from keras_switch import data
from keras_switch.data import corpus as corpus_module
from keras_switch.data.two_lengths import TwoLengths
from keras_switch.models import SwitchTokenizer


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


def prepare(config, lines, tokenizer=None):
    """Returns the tokenizer, and the stages of a run: on short texts, then on long and short ones.

    Args:
        config: `PretrainConfig`.
        lines: List of strings, the corpus.
        tokenizer: `SwitchTokenizer`. Defaults to the config's, or to one trained on the lines.

    Raises:
        ValueError: If the text, or the part of it that is held out, is too short.
    """
    start = time.perf_counter()
    lines, held_out = corpus_module.split_corpus(lines)
    if tokenizer is None:
        tokenizer = SwitchTokenizer(
            config.vocabulary or data.train_sentencepiece(lines, config.vocabulary_size)
        )
    tokens = [data.tokenize_corpus(part, tokenizer) for part in (lines, held_out)]
    stages = []
    if has_short_texts(config):
        stages.append(_stage(config, tokenizer, tokens, config.short_inputs_length, 0))
    if config.epochs > config.short_epochs or not stages:
        first = config.short_epochs if stages else 0
        stages.append(_stage(config, tokenizer, tokens, config.inputs_length, first))
    print(
        f"Data: {len(lines):,} lines, {len(tokens[0]):,} tokens of a vocabulary of "
        f"{tokenizer.vocabulary_size():,}, {stages[-1].train.batches_per_epoch:,} batches a pass "
        f"({time.perf_counter() - start:.0f} s)."
    )
    return tokenizer, stages


def has_short_texts(config):
    """Whether a run begins with texts that are shorter than its own."""
    return config.short_epochs > 0 and config.short_inputs_length < config.inputs_length


def _stage(config, tokenizer, tokens, inputs_length, first_epoch):
    """A stage whose batches have about as many tokens as those of the full length."""
    rows = config.batch_size
    if first_epoch and rows % 2:
        raise ValueError(
            "`batch_size` must be even: half of the rows are short texts, after `short_epochs`. "
            f"Received: batch_size={rows}"
        )
    texts_per_row = config.inputs_length // inputs_length
    train, held_out = _batches(config, tokenizer, tokens, inputs_length, rows * texts_per_row)
    if first_epoch:
        short = config.short_inputs_length
        texts = rows // 2 * (inputs_length // short)
        train = TwoLengths(
            _batches(config, tokenizer, tokens, inputs_length, rows // 2)[0],
            _batches(config, tokenizer, tokens, short, texts)[0],
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
            "The part of the corpus that is held out, 2% of its lines, is too short. Give a "
            f"longer corpus, or a smaller `batch_size` or `inputs_length`. {error}"
        ) from None
    return train, held_out
