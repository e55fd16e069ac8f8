"""The texts of a data set of tensorflow-datasets, by its name."""

import difflib
import re

_SPELLING = re.compile(
    r"tfds:(?P<name>[^:#\s]+(:\d[\d.*]*)?)(:(?P<split>[^#\s]+))?(#(?P<feature>.+))?"
)
_DEFAULT_FEATURE, _DEFAULT_SPLIT = "text", "train"


def is_tfds(source):
    return source.startswith("tfds:")


def parts(source):
    """Spells a data set as one source for each of the files that hold its split.

    Args:
        source: string, such as `"tfds:c4/en"` or `"tfds:glue/cola:validation#sentence"`.

    Returns:
        List of strings.
    """
    name, split, feature = _parse(source)
    try:
        num_shards = _builder(source, name).info.splits[split].num_shards
    except (KeyError, ValueError):
        num_shards = 1  # A part of a split; or there is none, and reading it says so.
    if num_shards < 2 or "[" in split or "+" in split:
        return [source]
    return [f"tfds:{name}:{split}[{k}shard:{k + 1}shard]#{feature}" for k in range(num_shards)]


def read_passages(source):
    """The texts of a data set, in the order of its files, without empty ones.

    Args:
        source: string, such as `"tfds:c4/en"`.

    Yields:
        Strings.

    Raises:
        ImportError: If tensorflow-datasets is not installed.
        ValueError: If there is no such data set, or it is not prepared, or lacks the split or the
            feature.
    """
    name, split, feature = _parse(source)
    builder = _builder(source, name)
    features = dict(builder.info.features.items())
    known = [key for key, value in features.items() if type(value).__name__ == "Text"]
    if feature not in known:
        listed = ", ".join(map(repr, known)) or "none"
        raise ValueError(
            f"The feature of a data set must be one of its texts, which are {listed}: "
            f"`tfds:{name}#FEATURE`. Received: source={source!r}"
        )
    dataset = _dataset(builder, source, split)
    for example in dataset.map(lambda example: example[feature]).as_numpy_iterator():
        if text := example.decode("utf-8", errors="replace").strip():
            yield text


def _parse(source):
    match = _SPELLING.fullmatch(source)
    if match is None:
        raise ValueError(
            "A data set must be spelled `tfds:NAME`, `tfds:NAME/CONFIG:SPLIT` or "
            f"`tfds:NAME/CONFIG:SPLIT#FEATURE`. Received: source={source!r}"
        )
    return match["name"], match["split"] or _DEFAULT_SPLIT, match["feature"] or _DEFAULT_FEATURE


def _tfds():
    try:
        import importlib_resources  # noqa: F401  tensorflow-datasets needs it and does not say so.
        import tensorflow_datasets
    except ImportError as error:
        raise ImportError(
            f"Reading `tfds:` needs tensorflow-datasets ({error}): pip install 'keras-switch[data]'"
        ) from None
    return tensorflow_datasets


def _builder(source, name):
    tfds = _tfds()
    try:
        return tfds.builder(name)
    except tfds.core.DatasetNotFoundError as error:
        # The message lists all data sets, and then may propose one.
        found = re.search(r"Did you mean: \S+ -> (\S+)", str(error))
        raise ValueError(
            "`tfds:` must be followed by the name of a data set of tensorflow-datasets."
            f"{_proposal([found[1]] if found else [])} Received: source={source!r}"
        ) from None
    except (AssertionError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].partition(" Here are")[0]
        dataset, _, config = name.partition("/")
        config = config.partition(":")[0]
        close = difflib.get_close_matches(config, tfds.builder_cls(dataset).builder_configs, n=1)
        raise ValueError(
            f"`tfds:` must name a configuration and a version that the data set has ({reason})."
            f"{_proposal([f'{dataset}/{one}' for one in close if one != config])} "
            f"Received: source={source!r}"
        ) from None


def _proposal(names):
    return f" Did you mean tfds:{names[0]}?" if names else ""


def _dataset(builder, source, split):
    try:
        return builder.as_dataset(split=split, shuffle_files=False)
    except AssertionError:
        command = f"tfds build {builder.info.full_name.rpartition('/')[0]}"
        raise ValueError(
            f"The data set must be prepared in {builder.data_dir}, where it is not: {command}. "
            f"Set TFDS_DATA_DIR to read another folder. Received: source={source!r}"
        ) from None
    except (KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"The split of a data set must be one that it has ({reason}). "
            f"Received: source={source!r}"
        ) from None
