"""Losses that are means over real targets, wherever those lie."""

import keras
from keras import ops

from keras_switch.layers import parallelism
from keras_switch.layers.dtypes import at_least_float32


class _MeanOverTargets:
    """Divides by the sum of the sample weights of all cores of a mesh, not of each core's own.

    On one core, and in a `tf.distribute` strategy that is no mesh, this is Keras's own
    `"mean_with_sample_weight"`.
    """

    def __init__(self, **kwargs):
        dtype = at_least_float32(keras.config.floatx())
        super().__init__(reduction="mean_with_sample_weight", dtype=dtype, **kwargs)
        self._parallelism = parallelism.active()

    def __call__(self, y_true, y_pred, sample_weight=None):
        mean = super().__call__(y_true, y_pred, sample_weight)
        if sample_weight is not None:  # Without it every core has as many targets.
            weight = ops.sum(ops.cast(sample_weight, mean.dtype))
            mean = mean * ops.divide_no_nan(weight, self._parallelism.mean(weight))
        return ops.cast(mean, keras.config.floatx())  # As all of Keras's losses.


@keras.saving.register_keras_serializable(package="keras_switch")
class TargetCrossEntropy(_MeanOverTargets, keras.losses.SparseCategoricalCrossentropy):
    """Mean cross-entropy, in nats, of logits over real targets.

    Made in the `scope` of a mesh it does not depend on the layout: it is divided by the sum of the
    sample weights of all cores.

    Args:
        name: string.

    Call arguments:
        y_true: Integer tensor `(batch, length)`.
        y_pred: Logits of shape `(batch, length, vocabulary_size)`.
        sample_weight: Tensor `(batch, length)`, 0 at padding.
    """

    def __init__(self, name="target_cross_entropy"):
        super().__init__(name=name, from_logits=True)

    def get_config(self):
        return {"name": self.name}


class LogitsZLoss(_MeanOverTargets, keras.losses.Loss):
    """Mean of `logsumexp(logits) ** 2` over real targets, called as `TargetCrossEntropy` is."""

    def call(self, y_true, y_pred):
        return ops.square(ops.logsumexp(y_pred, axis=-1))


def check_made_with(loss, expected):
    """Requires that means over targets are means over the cores of the model's mesh, if any.

    Args:
        loss: What a model's `compile` takes: a loss, or a structure of losses.
        expected: `Parallelism` of the model.
    """
    for one in keras.tree.flatten(loss):
        if not isinstance(one, _MeanOverTargets) or one._parallelism is expected:
            continue
        kinds = [type(one._parallelism), type(expected)]
        if kinds != [parallelism.Parallelism] * 2:  # Both of one core.
            raise ValueError(
                "The loss is a mean over the cores of a mesh, and the model is not on it. Make "
                "the loss in the `scope` of the model's mesh, or outside if it has none, or pass "
                f'`loss="auto"`. Received: loss={one!r} of a `{kinds[0].__name__}`, and a model of '
                f"another `{kinds[1].__name__}`"
            )
