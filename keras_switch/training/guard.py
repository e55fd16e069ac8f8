"""Stops a run that has gone wrong, or says so."""

import math
import warnings

import keras
import numpy as np

from keras_switch import checks
from keras_switch.layers import fit_logs
from keras_switch.training.checkpoint import finished_steps
from keras_switch.training.expert_loads import ExpertLoads

CHOICES = ("stop", "warn", None)
# How often the loads are read until an expert counts as dead.
READS = 10


class TrainingGuard(keras.callbacks.Callback):
    """Stops training, or warns, where the loss is not finite or experts get no tokens.

    It says after which step, in which layer, and what helps. It comes before `Checkpoint` in the
    list of callbacks, so that a run that stops leaves the checkpoint before as the newest one.

    It reads the loss from the logs, which `fit` has at hand, and the routers ten times in
    `dead_after` steps.

    Args:
        not_finite: `"stop"`, `"warn"` or `None`. What happens when the loss, or that of the
            validation, is NaN or infinite.
        dead_experts: `"stop"`, `"warn"` or `None`. What happens when an expert of a `SwitchDense`
            with routing metrics is dead.
        dead_after: int. After so many training steps without a token an expert is dead.

    Attributes:
        dead: Dictionary by layer path of lists of the experts that are dead now.

    Raises:
        ValueError: If an argument is not as described. In `fit`, when training is stopped.

    Example:
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="dense")])
    >>> model.compile("sgd", "mse")
    >>> x, y = keras.ops.ones((8, 3)), keras.ops.full((8, 1), float("nan"))
    >>> try:
    ...     history = model.fit(x, y, verbose=0, callbacks=[TrainingGuard()])
    ... except ValueError as error:
    ...     print(str(error)[:37])
    The loss is nan after step 1 (epoch 1
    """

    def __init__(self, not_finite="stop", dead_experts="warn", dead_after=500):
        super().__init__()
        self.not_finite = checks.check_choice("not_finite", not_finite, CHOICES)
        self.dead_experts = checks.check_choice("dead_experts", dead_experts, CHOICES)
        self.dead_after = checks.check_positive_integer("dead_after", dead_after)
        self.dead = {}
        self._idle = {}
        self._loads = ExpertLoads()
        self._epoch, self._batch, self._unread, self._told = 0, 0, 0, False

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._batch, self._told = epoch, 0, False

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 0 and self.dead_experts is not None:
            self._loads.begin_epoch(self.model)

    def on_train_batch_end(self, batch, logs=None):
        done = finished_steps(batch, self.params["steps"])
        self._unread += done - self._batch
        self._batch = done
        self._check_loss("loss", logs)
        if self._unread >= max(1, self.dead_after // READS):
            self._read()

    def on_epoch_end(self, epoch, logs=None):
        self._check_loss("val_loss", logs)
        if self._unread:
            self._read()

    def get_state(self):
        """The steps that each expert has got no token for, for `Checkpoint(parts=...)`."""
        return {path: idle.tolist() for path, idle in self._idle.items()}

    def set_state(self, state):
        self._idle = {path: np.asarray(idle) for path, idle in state.items()}

    def _check_loss(self, name, logs):
        loss = (logs or {}).get(name, 0.0)
        if self.not_finite is None or self._told or math.isfinite(loss):
            return
        self._told = True  # The loss is a mean over the epoch, so it stays what it is.
        self._tell(
            self.not_finite,
            f"The {name} is {loss} {self._moment()}. {describe_not_finite(self.model)} "
            "Go on from the last checkpoint with a lower learning rate, a longer warmup, clipped "
            "gradients (`global_clipnorm=1.0`) or a router z-loss (`z_loss_weight=1e-3`).",
        )

    def _read(self):
        steps, self._unread = self._unread, 0
        if self.dead_experts is None:
            return
        dead = {}
        for path, growth in self._loads.read(self.model).items():
            idle = np.where(growth > 0, 0, self._idle.get(path, 0) + steps)
            self._idle[path] = idle
            found = np.flatnonzero(idle >= self.dead_after).tolist()
            if found:
                dead[path] = found
        news = {path: [x for x in dead[path] if x not in self.dead.get(path, ())] for path in dead}
        news = {path: found for path, found in news.items() if found}
        self.dead = dead
        if news:
            told = ", ".join(f"{found} of `{path}`" for path, found in news.items())
            self._tell(
                self.dead_experts,
                f"Experts got no token for {self.dead_after} steps {self._moment()}: {told}. They "
                "learn nothing any more. Train with a higher `balance_loss_weight`, with more "
                '`jitter` or `exploration="sample"`, with a lower learning rate or with fewer '
                "experts.",
            )

    def _moment(self):
        step = int(self.model.optimizer.iterations)
        return f"after step {step} (epoch {self._epoch + 1}, batch {self._batch})"

    def _tell(self, how, message):
        if how == "stop":
            raise ValueError(message)
        warnings.warn(message, stacklevel=3)


def describe_not_finite(model):
    """Says in which layers of a model there are values that are not finite."""
    words = ""
    for layer in fit_logs.switch_layers(model):
        if not np.isfinite(keras.ops.convert_to_numpy(layer.routing_totals)).all():
            words = f"The first router that met such values is that of `{layer.path}`. "
            break
    weights = model.trainable_variables
    spoiled = [weight.path for weight in weights if not _is_finite(weight)]
    if not spoiled:
        return f"{words}All weights are finite: look at the data, its weights and the loss."
    return (
        f"{words}{len(spoiled)} of {len(weights)} weights hold such values, the first is "
        f"`{spoiled[0]}`."
    )


def _is_finite(variable):
    return bool(keras.ops.all(keras.ops.isfinite(keras.ops.convert_to_tensor(variable))))
