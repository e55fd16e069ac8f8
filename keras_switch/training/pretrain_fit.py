"""The training of a pre-training run, which goes on from its newest checkpoint."""

import contextlib

import keras

from keras_switch.training import callbacks
from keras_switch.training import checkpoint as checkpoint_module
from keras_switch.training import run_files
from keras_switch.training.guard import TrainingGuard
from keras_switch.training.pretrain_model import NATS
from keras_switch.training.training_state import TrainingState
from keras_switch.training.validation import ShuffledValidation


def fit(
    config,
    model,
    stages,
    output_dir,
    fillings,
    *,
    checkpoint_every="epoch",
    not_finite="stop",
    dead_experts="warn",
    tensorboard=False,
):
    """Trains to the end of the run, from its newest checkpoint if there is one.

    Args:
        config: `PretrainConfig`.
        model: Compiled `SwitchSeq2SeqLM`.
        stages: List of `pretrain_data.Stage`.
        output_dir: Path of the run.
        fillings: `ShowFillings`.
        checkpoint_every: `"epoch"`, or int, a number of steps.
        not_finite: What `TrainingGuard` does at a loss that is not finite.
        dead_experts: What it does at dead experts.
        tensorboard: bool. Whether to write TensorBoard's events.
    """
    state = _resume(config, model, output_dir)
    guard = TrainingGuard(not_finite, dead_experts)
    recorder = callbacks.LoadRecorder(every=max(1, config.steps_per_epoch // 4))
    checkpoint = checkpoint_module.Checkpoint(
        output_dir / "checkpoints",
        checkpoint_every,
        state=state,
        parts={"load": recorder, "guard": guard},
        asynchronous=True,
    )
    # The trainer of the JAX backend has no place for the metrics of layers.
    routing = [callbacks.RoutingMetrics()] if keras.config.backend() == "jax" else []
    before = [*routing, guard, recorder]
    files = _files(config, output_dir, checkpoint, recorder)
    after = [*files, run_files.TensorBoard(output_dir / "tensorboard")] if tensorboard else files
    try:
        _fit_stages(config, model, stages, before, checkpoint, [*after, fillings], guard)
    except BaseException:
        # What stopped training is told, and not what the thread may have met besides.
        with contextlib.suppress(Exception):
            checkpoint.wait()
        raise
    for file in files:
        file.write()  # A run may have been killed between its last checkpoint and these.
    nats = state.history[NATS]
    print(
        f"Nats per token: {nats[0]:.2f} in the first epoch, {nats[-1]:.2f} in the last. "
        f"Figures: {output_dir / 'figures'}."
    )


def _fit_stages(config, model, stages, before, checkpoint, after, guard):
    """Trains what is left of each stage."""
    state = checkpoint.state
    for stage, following in zip(stages, [*stages[1:], None], strict=True):
        bar = callbacks.ProgressBar(
            stage.train.tokens_per_batch, config.epochs, config.steps_per_epoch, guard
        )
        shuffled = ShuffledValidation(validation(config, stage), NATS)
        calls = [*before, shuffled, checkpoint, bar, *after]
        end = following.first_epoch if following else config.epochs
        while state.epoch < end:
            _fit_epochs(config, model, stage, end, checkpoint, calls)


def _fit_epochs(config, model, stage, end, checkpoint, calls):
    """Trains to an epoch; or, if the run was stopped in an epoch, to the end of that one."""
    state = checkpoint.state
    is_stopped, left = state.epoch_step > 0, config.steps_per_epoch - state.epoch_step
    with callbacks.StopOnInterrupt(checkpoint) as stop:
        model.fit(
            stage.train.dataset(first_batch=state.step - stage.first_step),
            initial_epoch=state.epoch,
            epochs=state.epoch + 1 if is_stopped else end,
            steps_per_epoch=left,
            shuffle=False,
            validation_data=validation(config, stage),
            callbacks=[*calls, stop],
        )


def _resume(config, model, output_dir):
    """Restores the newest whole checkpoint, if there is one; returns its state, or a new one."""
    directory = output_dir / "checkpoints"
    for line in checkpoint_module.set_damaged_aside(directory):
        print(line)
    path = checkpoint_module.latest(directory)
    if path is None:
        return TrainingState()
    state = checkpoint_module.restore(model, path)
    finished = "finished: nothing left to train" if state.epoch >= config.epochs else "resumed"
    print(f"Run in {output_dir} {finished}, at step {state.step}. --restart starts anew.")
    return state


def _files(config, output_dir, checkpoint, recorder):
    """The callbacks that write the history and the figures of a run."""
    title = f"Switch Transformer, {config.num_experts} experts, span corruption"
    return [
        run_files.HistoryCSV(output_dir / "history.csv", checkpoint),
        run_files.Figures(
            output_dir / "figures", checkpoint, config.steps_per_epoch, recorder, NATS, title
        ),
    ]


def validation(config, stage):
    """The held-out batches of a stage."""
    steps = min(config.validation_steps, stage.held_out.batches_per_epoch)
    return stage.held_out.dataset(num_batches=steps)
