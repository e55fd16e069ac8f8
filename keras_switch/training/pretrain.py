"""The recipe of `keras-switch pretrain`: from plain text to a model that fills blanks."""

import dataclasses
import pathlib
import time

import keras

from keras_switch import atomic
from keras_switch import data
from keras_switch.data import corpus as corpus_module
from keras_switch.models import SwitchBackbone
from keras_switch.models import SwitchSeq2SeqLM
from keras_switch.models import SwitchSeq2SeqLMPreprocessor
from keras_switch.models import SwitchTokenizer
from keras_switch.training import callbacks
from keras_switch.training import checkpoint as checkpoint_module
from keras_switch.training import plots
from keras_switch.training import run_directory

NATS, VOCABULARY = "nats_per_token", "vocabulary.model"


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """What decides a run; `keras-switch pretrain --help` describes each field."""

    corpus: str
    vocabulary_size: int
    inputs_length: int
    noise_density: float
    batch_size: int
    hidden_dim: int
    intermediate_dim: int
    num_heads: int
    num_layers: int
    num_experts: int
    dtype: str
    learning_rate: float
    warmup_steps: int
    epochs: int
    steps_per_epoch: int
    validation_steps: int
    seed: int


def pretrain(config, output_dir, restart=False, checkpoint_every="epoch"):
    """Trains, draws and saves; resumes where an earlier run stopped.

    At the end the folder `model` in the directory holds a preset for
    `SwitchSeq2SeqLM.from_preset`, tokenizer included.

    More epochs than an earlier run had extend it: from its last step on the learning rate is that
    which a run of so many epochs has at that step, so it first rises again.

    Args:
        config: `PretrainConfig`.
        output_dir: Path of the directory that everything is written to.
        restart: bool. Moves an earlier run aside and starts anew.
        checkpoint_every: `"epoch"`, or int, a number of steps.

    Returns:
        The trained `SwitchSeq2SeqLM`, with its preprocessor.

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
        return _pretrain(config, output_dir, checkpoint_every)


def _pretrain(config, output_dir, checkpoint_every):
    settings = dataclasses.asdict(config)
    before = run_directory.check_settings(settings, output_dir, growing=["epochs"])
    lines = data.read_corpus(config.corpus or None)
    if before:
        run_directory.check_corpus(lines, output_dir)
        run_directory.check_files(output_dir)
    keras.utils.set_random_seed(config.seed)
    path = output_dir / VOCABULARY
    tokenizer = SwitchTokenizer(str(path)) if before else None
    tokenizer, train, validation = prepare_data(config, lines, tokenizer)
    model = build_and_compile(config, tokenizer.vocabulary_size())
    if not before:
        with atomic.whole(path) as beside:
            beside.write_bytes(tokenizer.proto)
    if settings != before:
        run_directory.write_settings(settings, lines, output_dir, files=[VOCABULARY])
    print(
        f"Model: {model.count_params():,} parameters, {config.num_layers} + {config.num_layers} "
        f"blocks, {config.num_experts} experts in every other one, {config.dtype}."
    )
    if before and before["epochs"] < config.epochs:
        print(
            f"Extended the run from {before['epochs']} to {config.epochs} epochs: from here on the "
            "learning rate follows the longer run's."
        )
    state, recorder = fit(config, model, train, validation, output_dir, checkpoint_every)
    draw(config, state, recorder, output_dir)
    # `fit` would otherwise take texts, and not the batches of ids.
    model.preprocessor = SwitchSeq2SeqLMPreprocessor(
        tokenizer, train.inputs_length, train.targets_length
    )
    save(model, output_dir / "model")
    return model


def question(config):
    """Returns a line of the held-out text with blanks, `<extra_id_0>` and `<extra_id_1>`."""
    _, held_out = corpus_module.split_corpus(data.read_corpus(config.corpus or None))
    return corpus_module.hide_words(held_out)


def prepare_data(config, lines, tokenizer=None):
    """Returns the tokenizer, and the batches to train on and to validate with.

    Args:
        config: `PretrainConfig`.
        lines: List of strings, the corpus.
        tokenizer: `SwitchTokenizer`. Trained on the lines if not given.

    Raises:
        ValueError: If the text, or the part of it that is held out, is too short.
    """
    start = time.perf_counter()
    lines, held_out = corpus_module.split_corpus(lines)
    if tokenizer is None:
        tokenizer = SwitchTokenizer(data.train_sentencepiece(lines, config.vocabulary_size))
    sizes = (tokenizer, config.inputs_length, config.batch_size)
    tokens = data.tokenize_corpus(lines, tokenizer)
    noise = {"noise_density": config.noise_density}
    train = data.SpanCorruptionBatches(tokens, *sizes, **noise, seed=config.seed)
    held_out_tokens = data.tokenize_corpus(held_out, tokenizer)
    try:
        validation = data.SpanCorruptionBatches(
            held_out_tokens, *sizes, **noise, seed=config.seed + 1
        )
    except ValueError as error:
        raise ValueError(
            f"The part of the corpus that is held out, {len(held_out):,} of "
            f"{len(lines) + len(held_out):,} lines, is too short. Give a longer corpus, or a "
            f"smaller `batch_size` or `inputs_length`. {error}"
        ) from None
    print(
        f"Data: {len(lines):,} lines, {len(tokens):,} tokens of a vocabulary of "
        f"{tokenizer.vocabulary_size():,}, {train.batches_per_epoch:,} batches a pass "
        f"({time.perf_counter() - start:.0f} s)."
    )
    return tokenizer, train, validation


def build_and_compile(config, vocabulary_size):
    """Returns the compiled model."""
    backbone = SwitchBackbone(
        vocabulary_size,
        config.num_layers,
        config.num_heads,
        config.hidden_dim,
        config.intermediate_dim,
        num_experts=config.num_experts,
        dtype=config.dtype,
        seed=config.seed,
    )
    rate = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        warmup_target=config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=max(1, config.epochs * config.steps_per_epoch - config.warmup_steps),
        alpha=0.1,
    )
    optimizer = keras.optimizers.Adam(rate, beta_2=0.98, clipnorm=1.0)
    # The loss of training also has the z-loss and the routers' losses in it, that of validation
    # has not.
    nats = keras.metrics.SparseCategoricalCrossentropy(NATS, from_logits=True)
    model = SwitchSeq2SeqLM(backbone)
    model.compile(optimizer, sampler="greedy", weighted_metrics=[nats], jit_compile=False)
    return model


def fit(config, model, train, validation, output_dir, checkpoint_every="epoch"):
    """Trains to the end of the run, from its newest checkpoint if there is one.

    Returns:
        Pair of the final `TrainingState` and the `LoadRecorder`.
    """
    directory = output_dir / "checkpoints"
    for line in checkpoint_module.set_damaged_aside(directory):
        print(line)
    path = checkpoint_module.latest(directory)
    state = checkpoint_module.TrainingState()
    if path is not None:
        state = checkpoint_module.restore(model, path)
        finished = "finished: nothing left to train" if state.epoch >= config.epochs else "resumed"
        print(f"Run in {output_dir} {finished}, at step {state.step}. --restart starts anew.")
    recorder = callbacks.LoadRecorder(every=max(1, config.steps_per_epoch // 4))
    checkpoint = checkpoint_module.Checkpoint(
        directory, checkpoint_every, state=state, parts={"load": recorder}
    )
    validation_steps = min(config.validation_steps, validation.batches_per_epoch)

    def run(epochs, steps):
        bar = callbacks.ProgressBar(train.tokens_per_batch)
        with callbacks.StopOnInterrupt(checkpoint) as stop:
            model.fit(
                train.dataset(first_batch=state.step),
                initial_epoch=state.epoch,
                epochs=epochs,
                steps_per_epoch=steps,
                shuffle=False,
                validation_data=validation.dataset(num_batches=validation_steps),
                callbacks=[recorder, checkpoint, stop, bar],
            )

    if state.epoch_step:
        run(state.epoch + 1, config.steps_per_epoch - state.epoch_step)
    if state.epoch < config.epochs:
        run(config.epochs, config.steps_per_epoch)
    return state, recorder


def draw(config, state, recorder, output_dir):
    """Writes the figures of a run."""
    train, held_out = state.history[NATS], state.history[f"val_{NATS}"]
    print(
        f"Nats per token: {train[0]:.2f} in the first epoch, {train[-1]:.2f} in the last; on "
        f"held-out text {held_out[0]:.2f} and {held_out[-1]:.2f}."
    )
    folder = output_dir / "figures"
    title = f"Switch Transformer, {config.num_experts} experts, span corruption"
    plots.plot_losses(state.history, folder / "loss.png", config.steps_per_epoch, title, NATS)
    plots.plot_loads(recorder.windows, folder / "expert_load.png", recorder.every)
    print(f"Figures: {folder / 'loss.png'}, {folder / 'expert_load.png'}.")


def save(model, path):
    """Writes the preset folder, whole or not at all, in the place of an earlier one."""
    with atomic.whole(path, replaces_folder=True) as beside:
        model.save_to_preset(str(beside))
    print(f"Saved {path}, from which `SwitchSeq2SeqLM.from_preset` makes the model again.")
