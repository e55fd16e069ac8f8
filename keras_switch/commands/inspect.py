"""`keras-switch inspect`."""

import json
import pathlib

from keras_switch import command_line
from keras_switch import configs
from keras_switch import process
from keras_switch.commands import language_model


def define_flags(flags):
    flags.DEFINE_string("run", "", "Directory of a run of `keras-switch pretrain`.")
    flags.DEFINE_string("model", "", "In its place, the folder of a language model.")
    flags.DEFINE_string("text", "", "Text file to read. Default: what the run has held out.")
    flags.DEFINE_integer("inputs_length", None, "Tokens of a text. Default: the model's.", 4)
    flags.DEFINE_integer("batch_size", 16, "Texts in a batch.", lower_bound=1)
    flags.DEFINE_integer("batches", 16, "The most batches to read.", lower_bound=1)
    flags.DEFINE_integer("pieces", 8, "Pieces to show of each expert.", lower_bound=1)
    flags.DEFINE_string("figure", "", "PNG to write. Default: figures/experts.png of the run.")


def run(values):
    source = values.run or values.model
    if bool(values.run) == bool(values.model):
        raise ValueError(
            "Either `run` or `model` must be given, the directory of a run or the folder of a "
            f"model. Received: run={values.run!r}, model={values.model!r}"
        )
    settings = _settings(values.run)
    with process.loading():
        from keras_switch import tpu
        from keras_switch.models.fill_blanks import check_takes_texts
        from keras_switch.training import inspection
        from keras_switch.training import plots

    tpu.highest_float32()
    model = language_model.load(source)
    check_takes_texts(model)
    batches = _batches(values, settings, model)
    layers = inspection.inspect_experts(model, batches, values.pieces)
    print(layers, flush=True)
    path = pathlib.Path(values.figure or _default_figure(values.run))
    plots.plot_experts(layers, path, values.pieces)
    print(f"\nFigure: {path}.")


def _settings(run):
    """The settings of a run, or none without one."""
    if not run:
        return {}
    path = pathlib.Path(run, "config.json")
    try:
        return json.loads(path.read_text(encoding="utf-8"))["settings"]
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        raise ValueError(
            "`run` must be the directory of a run of `keras-switch pretrain`, with its settings in "
            f"config.json. Received: run={run!r}"
        ) from None


def _default_figure(run):
    return pathlib.Path(run, "figures", "experts.png") if run else "experts.png"


def _batches(values, settings, model):
    """Batches of the text, with the noise of the run."""
    from keras_switch import data
    from keras_switch.training import pretrain_data

    preprocessor = model.preprocessor
    if values.text:
        tokens = data.tokenize_corpus(data.read_corpus(values.text), preprocessor.tokenizer)
    else:
        corpus = pretrain_data.Corpus(configs.PretrainConfig(corpus=settings.get("corpus", "")))
        _, tokens = corpus.tokens(preprocessor.tokenizer)
    names = ("noise_density", "mean_span_length")
    batches = data.SpanCorruptionBatches(
        tokens,
        preprocessor.tokenizer,
        values.inputs_length or min(preprocessor.encoder_sequence_length, 512),
        values.batch_size,
        **{name: settings[name] for name in names if name in settings},
    )
    return batches.dataset(num_batches=min(values.batches, batches.batches_per_epoch))


COMMAND = command_line.Command(
    "show which tokens each expert of a model takes, as a table and a picture",
    define_flags,
    run,
    aliases={"preset": "model", "path": "text", "tokens": "text"},
)
