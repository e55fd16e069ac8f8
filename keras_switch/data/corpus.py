"""A corpus in memory."""

import typing

from keras_switch.data import sources


def embedded_corpora():
    """Returns the corpora that come with this package, by name.

    `"english"` is the State of the Union addresses; `"gnome/de"` and 26 more are the help of
    GNOME in one language each. `corpora/README.md` tells their sources and licences.

    Returns:
        Dictionary from name to path, which `read_corpus` takes.

    Example:

    >>> list(embedded_corpora())[:4]
    ['english', 'gnome/ca', 'gnome/cs', 'gnome/da']
    """
    gnome = sorted(sources.EMBEDDED.parent.glob("gnome/*.txt.xz"))
    return {"english": sources.EMBEDDED} | {
        f"gnome/{path.name.split('.')[0]}": path for path in gnome
    }


def read_corpus(path=None):
    """Returns the passages of a source of text, without empty ones.

    Args:
        path: What `keras_switch.data.read_lines` takes: a text file, JSON lines, a glob, a data
            set such as `tfds:c4/en`, or a list of them. Defaults to the corpus in this package,
            the State of the Union addresses.

    Returns:
        List of strings.

    Raises:
        ValueError: If a source does not exist, is not text, or holds no words.
        ImportError: If it needs a package of the extra `data` that is not installed.
    """
    return list(sources.read_lines(path))


def split_corpus(lines, held_out=0.02):
    """Splits lines into a training part and a validation part.

    The lines held out are spread evenly over the whole text.

    Args:
        lines: List of strings.
        held_out: float. Fraction of the lines to hold out, at least one line.

    Returns:
        Pair of lists of strings.
    """
    if not 0 < held_out < 1:
        raise ValueError(f"`held_out` must be between 0 and 1. Received: held_out={held_out}")
    if len(lines) < 2:
        raise ValueError(f"`lines` must hold at least two lines. Received: {len(lines)}")
    period = max(2, round(1 / held_out))
    train = [line for index, line in enumerate(lines) if (index + 1) % period]
    validation = lines[period - 1 :: period]
    return (train, validation) if validation else (lines[:-1], lines[-1:])


class Question(typing.NamedTuple):
    """A text with blanks, `<extra_id_0>` and `<extra_id_1>`, and the words that were there."""

    text: str
    answers: tuple


def questions(lines, count):
    """Returns lines with two of their words hidden, spread evenly over a list of lines.

    A line is taken if it is long enough, else the longest; of it at most the first 20 words. In
    a script without spaces, characters take the place of words.

    Args:
        lines: List of strings, not empty.
        count: int.

    Returns:
        List of `count` `Question`s.
    """
    return [_question(lines[len(lines) * i // count :]) for i in range(count)]


def _question(lines):
    longest = max(lines, key=lambda line: len(line.split()))
    line = next((line for line in lines if 8 <= len(line.split()) <= 20), longest)
    words, space = line.split()[:20], " "
    if len(words) < 3:
        words, space = list(line[:20]), ""
    places = sorted({len(words) // 3, 2 * len(words) // 3})
    answers = tuple(words[place] for place in places)
    for number, place in enumerate(places):
        words[place] = f"<extra_id_{number}>"
    return Question(space.join(words), answers)
