"""The recipe of `keras-switch pretrain`: from plain text to a model that fills blanks."""

import dataclasses
import pathlib

import keras

from keras_switch import atomic
from keras_switch.configs import PretrainConfig
from keras_switch.data.shuffled_inputs import shuffle_inputs
from keras_switch.models import SwitchSeq2SeqLMPreprocessor
from keras_switch.models import SwitchTokenizer
from keras_switch.training import pretrain_data
from keras_switch.training import pretrain_fit
from keras_switch.training import pretrain_model
from keras_switch.training import run_directory
from keras_switch.training.pretrain_model import NATS
from keras_switch.training.validation import ShowFillings

VOCABULARY = "vocabulary.model"
# What a run may be resumed with that it did not begin with.
GROWING = ("epochs",)
FREE = (
    "mesh",
    "layout",
    "learning_rate",
    "warmup_steps",
    "balance_loss_weight",
    "router_z_loss_weight",
)


def pretrain(config, output_dir, restart=False, fillings_every=5, **options):
    """Trains, draws and saves; resumes where an earlier run stopped.

    At the end the folder `model` in the directory holds a preset for
    `SwitchSeq2SeqLM.from_preset`, tokenizer included.

    More epochs than an earlier run had extend it: from its last step on the learning rate is that
    which a run of so many epochs has at that step, so it first rises again. It may go on on another
    mesh, with another learning rate, or with other weights of the routers' losses.

    Args:
        config: `PretrainConfig`.
        output_dir: Path of the directory that everything is written to.
        restart: bool. Moves an earlier run aside and starts anew.
        fillings_every: int. Epochs between two tables of what the model fills the blanks of
            held-out texts with; 0 for none.
        **options: Those of `keras_switch.training.pretrain_fit.fit`: when it saves and stops, and
            what it writes besides.

    Returns:
        The trained `SwitchSeq2SeqLM`, with its preprocessor; an ordinary one also after training on
        a mesh.

    Raises:
        ValueError: If the run in the directory has other settings or another corpus, a file of it
            is damaged, or another process is at work there; or if the corpus is too short.
    """
    output_dir = pathlib.Path(output_dir)
    if restart and output_dir.exists():
        with run_directory.lock(output_dir):
            aside = run_directory.move_aside(output_dir)
        print(f"Moved the earlier run to {aside}.")
    with run_directory.lock(output_dir):
        return _pretrain(config, output_dir, fillings_every, options)


def _pretrain(config, output_dir, fillings_every, options):
    settings = dataclasses.asdict(config)
    before = run_directory.check_settings(
        settings, output_dir, GROWING, FREE, dataclasses.asdict(PretrainConfig())
    )
    mesh = pretrain_model.connect(config)
    corpus = pretrain_data.Corpus(config)
    if before:
        run_directory.check_corpus(corpus.sha256, output_dir)
        run_directory.check_files(output_dir)
    keras.utils.set_random_seed(config.seed)
    path = output_dir / VOCABULARY
    tokenizer = SwitchTokenizer(str(path)) if before else None
    tokenizer, stages = pretrain_data.prepare(config, corpus, tokenizer)
    model = pretrain_model.build_and_compile(config, tokenizer.vocabulary_size(), mesh)
    if not before:
        with atomic.whole(path) as beside:
            beside.write_bytes(tokenizer.proto)
    if settings != before:
        run_directory.write_settings(settings, corpus.sha256, output_dir, files=[VOCABULARY])
    _describe(config, model)
    if before and before["epochs"] < config.epochs:
        print(
            f"Extended the run from {before['epochs']} to {config.epochs} epochs: from here on the "
            "learning rate follows the longer run's."
        )
    longest = stages[-1].held_out
    preprocessor = SwitchSeq2SeqLMPreprocessor(
        tokenizer, longest.inputs_length, longest.targets_length
    )
    questions = corpus.questions(tokenizer)
    fillings = ShowFillings(questions, preprocessor, config.epochs, fillings_every, mesh)
    pretrain_fit.fit(config, model, stages, output_dir, fillings, **options)
    for stage in stages:
        print(held_out_line(config, model, stage))
    if mesh:
        model = mesh.whole(model)
    # Only now: `fit` would take texts, and not the batches of ids.
    model.preprocessor = preprocessor
    save(model, output_dir / "model")
    return model


def _describe(config, model):
    print(
        f"Model: {model.count_params():,} parameters, {config.num_layers} + {config.num_layers} "
        f"blocks, {config.num_experts} experts in every other one, {config.dtype}."
    )


def question(config, tokenizer):
    """Returns a text that was held out, with blanks, `<extra_id_0>` and `<extra_id_1>`."""
    return pretrain_data.Corpus(config).questions(tokenizer)[0].text


def held_out_line(config, model, stage):
    """Returns a line that says how well a model predicts held-out text, and that it reads it."""
    held_out = pretrain_fit.validation(config, stage)
    own, others = (
        model.evaluate(dataset, verbose=0, return_dict=True)[NATS]
        for dataset in (held_out, shuffle_inputs(held_out))
    )
    length = stage.held_out.inputs_length
    return (
        f"Held-out text, {length} tokens: {own:.2f} nats a token; {others:.2f} with the inputs of "
        f"another text, {others - own:.2f} more."
    )


def save(model, path):
    """Writes the preset folder, whole or not at all, in the place of an earlier one."""
    with atomic.whole(path, replaces_folder=True) as beside:
        model.save_to_preset(str(beside))
    print(f"Saved {path}, from which `SwitchSeq2SeqLM.from_preset` makes the model again.")
