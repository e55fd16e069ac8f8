"""Learning rates of the step."""

import keras
from keras import ops

from keras_switch import checks


@keras.saving.register_keras_serializable(package="keras_switch")
class RelativeStep(keras.optimizers.schedules.LearningRateSchedule):
    """The rate of Adafactor's authors: `min(0.01, 1 / sqrt(step))`, where the first step is 1.

    Example:
    >>> [round(float(RelativeStep()(step)), 6) for step in (0, 9_999, 39_999)]
    [0.01, 0.01, 0.005]
    """

    def __call__(self, step):
        return ops.minimum(0.01, ops.rsqrt(ops.cast(step, "float32") + 1.0))

    def get_config(self):
        return {}


@keras.saving.register_keras_serializable(package="keras_switch")
class InverseSquareRoot(keras.optimizers.schedules.LearningRateSchedule):
    """T5's rate in pre-training, `1 / sqrt(max(step, warmup_steps))`, or a multiple of it.

    It stays at its peak for the first steps, and falls from there on.

    Args:
        peak: float. The highest rate. Defaults to `1 / sqrt(warmup_steps)`.
        warmup_steps: int. Steps at the peak.

    Example:
    >>> [round(float(InverseSquareRoot()(step)), 6) for step in (0, 10_000, 40_000)]
    [0.01, 0.01, 0.005]

    Reference:
    - [Raffel et al., 2019](https://arxiv.org/abs/1910.10683), section 3.1.2
    """

    def __init__(self, peak=None, warmup_steps=10_000):
        self.warmup_steps = checks.check_positive_integer("warmup_steps", warmup_steps)
        peak = self.warmup_steps**-0.5 if peak is None else peak
        self.peak = checks.check_positive_number("peak", peak)

    def __call__(self, step):
        steps = ops.maximum(ops.cast(step, "float32"), float(self.warmup_steps))
        return self.peak * float(self.warmup_steps) ** 0.5 * ops.rsqrt(steps)

    def get_config(self):
        return {"peak": self.peak, "warmup_steps": self.warmup_steps}
