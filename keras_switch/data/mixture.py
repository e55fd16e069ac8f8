"""A mixture of sequences of examples."""

import numpy as np
import tensorflow as tf

from keras_switch import checks
from keras_switch.data import indexed_batches
from keras_switch.data import randomness

# Examples after which the pattern of a mixture begins again.
PERIOD = 2**16


def mixture_rates(sizes, alpha=0.3, cap=None):
    """Shares of several texts in a mixture, each proportional to `min(size, cap) ** alpha`.

    mT5 mixes its languages with `alpha=0.3`. T5's mixing in proportion to the number of examples,
    with a limit, is `alpha=1` with a `cap`. 0 gives all the same share.

    Args:
        sizes: Dictionary from names to numbers, or list of numbers: how much text there is of
            each, in examples, tokens or bytes.
        alpha: float. At least 0.
        cap: number. The size from which a text has no larger share. Defaults to none.

    Returns:
        Dictionary with the same names, or list. The shares add up to 1.

    Raises:
        ValueError: If a size is not positive, or another argument not as described.

    Example:
    >>> keras_switch.data.mixture_rates({"en": 3000, "sw": 1}, alpha=0.5, cap=9)
    {'en': 0.75, 'sw': 0.25}
    """
    checks.check_number("alpha", alpha, 0)
    if cap is not None:
        checks.check_positive_number("cap", cap)
    names, values = _named("sizes", sizes)
    capped = [value if cap is None else min(value, cap) for value in values]
    # Powers of the sizes themselves can be too large for a float.
    weights = [(value / max(capped)) ** alpha for value in capped]
    shares = [weight / sum(weights) for weight in weights]
    return shares if names is None else dict(zip(names, shares))


class Mixture(indexed_batches.IndexedBatches):
    """Batches of examples of several texts, mixed at given rates.

    Which text example `i` is of, and which of that text's own examples it is, depends on the seed
    and `i` alone: the texts follow one another in a pattern of 65,536 examples, spread as evenly
    as their rates allow, and each text is read in its own order without gaps or repeats. So a run
    resumes at any batch at no cost. A rate below 1 in 65,536 counts as that.

    Args:
        batches: Dictionary from names to `SpanCorruptionBatches`, other batches of this module or
            `Mixture`s, or list of them. All have the same batch size and lengths; batches of pairs
            and of single texts do not mix with those of chunks.
        rates: Dictionary from the same names to positive numbers, or list of them, such as
            `mixture_rates` gives. They need not add up to 1.
        seed: int, from 0 to `2**31 - 1`.

    Raises:
        ValueError: If names, sizes or rates are not as described.

    Example:
    >>> tokens = {"en": np.full(9000, 5), "sw": np.full(2000, 7)}
    >>> batches = {
    ...     name: keras_switch.data.SpanCorruptionBatches(row, tokenizer, 32, batch_size=8)
    ...     for name, row in tokens.items()
    ... }
    >>> rates = keras_switch.data.mixture_rates({name: len(row) for name, row in tokens.items()})
    >>> mixture = keras_switch.data.Mixture(batches, rates)
    >>> inputs, targets, weights = next(iter(mixture.dataset(first_batch=1000)))
    """

    def __init__(self, batches, rates, seed=0):
        names, parts = _named("batches", batches, are_numbers=False)
        rate_names, values = _named("rates", rates)
        if names is None and rate_names is None:
            same = len(parts) == len(values)
        else:
            same = set(names or ()) == set(rate_names or ())
            values = [rates[name] for name in names] if same else values
        if not same:
            raise ValueError(
                "`batches` and `rates` must have the same names, or be lists of the same length. "
                f"Received: batches of {names or len(parts)}, rates of {rate_names or len(values)}"
            )
        for attribute in (
            "batch_size",
            "inputs_length",
            "targets_length",
            "pad_id",
            "is_numbered",
        ):
            found = [getattr(part, attribute) for part in parts]
            if len(set(found)) > 1:
                raise ValueError(f"`batches` must have the same {attribute}. Received: {found}")
        first = parts[0]
        self.seed = randomness.check_seed(seed)
        self.parts = parts
        self.is_numbered = first.is_numbered
        self.counts = _counts(values)
        self._pattern, self._ranks = _pattern(self.counts, self.seed)
        super().__init__(
            first.batch_size,
            first.inputs_length,
            first.targets_length,
            sum(part.examples_per_epoch for part in parts),
            first.pad_id,
        )

    def examples(self, indices):
        places = indices % PERIOD
        sources = tf.gather(self._pattern, places)
        counts = tf.constant(self.counts, tf.int64)
        own = indices // PERIOD * tf.gather(counts, sources) + tf.gather(self._ranks, places)
        rows = [tf.where(sources == number)[:, 0] for number in range(len(self.parts))]
        mixed = [part.examples(tf.gather(own, row)) for part, row in zip(self.parts, rows)]
        order = tf.argsort(tf.concat(rows, axis=0))
        return tuple(tf.gather(tf.concat(side, axis=0), order) for side in zip(*mixed))


def _named(argument, values, are_numbers=True):
    """The names, or `None`, and the values of a dictionary or a list."""
    names = list(values) if isinstance(values, dict) else None
    values = list(values.values() if names is not None else values)
    if not values:
        raise ValueError(f"`{argument}` must not be empty. Received: {argument}={values!r}")
    for number, value in enumerate(values if are_numbers else ()):
        place = number if names is None else names[number]
        checks.check_positive_number(f"{argument}[{place!r}]", value)
    return names, values


def _counts(rates):
    """How many examples of a period are of each text, at least one, by largest remainders."""
    exact = np.array(rates, np.float64) / max(rates)
    exact *= PERIOD / exact.sum()
    counts = np.maximum(np.floor(exact), 1).astype(np.int64)
    missing = PERIOD - counts.sum()
    # Texts that were raised to one example take them from the largest.
    order = np.argsort(counts - exact, kind="stable")
    if missing >= 0:
        counts[order[:missing]] += 1
    else:
        counts[np.argmax(counts)] += missing
    return counts


def _pattern(counts, seed):
    """The text of each example of a period, and how many earlier ones are of the same text."""
    offsets = np.random.default_rng(seed).random(len(counts))
    ranks = np.concatenate([np.arange(count) for count in counts])
    sources = np.repeat(np.arange(len(counts)), counts)
    order = np.argsort((ranks + offsets[sources]) / counts[sources], kind="stable")
    return sources[order], ranks[order]
