"""Routing metrics in the logs of `fit`.

A `keras.metrics.Metric` of a layer would also be a result of `train_on_batch` and `evaluate`, and a
name in `metrics_names`. Keras calls nothing else of a layer at the end of an epoch, so on the
TensorFlow backend its `CallbackList` does what the `RoutingMetrics` callback does.
"""

import functools

import keras

from keras_switch.layers.routing_metrics import SCALARS
from keras_switch.layers.switch_dense import SwitchDense


def switch_layers(model):
    """Every built `SwitchDense` of a model that keeps routing metrics, however deep."""
    layers = model._flatten_layers(include_self=False, recursive=True)
    return [x for x in layers if isinstance(x, SwitchDense) and x.built and x.routing_metrics]


def start_epoch(model):
    """Starts the averages of all layers of a model anew."""
    for layer in switch_layers(model):
        layer.reset_routing_metrics()


def of_epoch(model):
    """The averages of all layers since `start_epoch`, by names such as `"switch_dense/dropped"`."""
    logs = {}
    for layer in switch_layers(model):
        metrics = layer.get_routing_metrics()
        logs.update({f"{layer.path}/{name}": metrics[name] for name in SCALARS})
    return logs


def show_in_every_fit():
    """Makes Keras's list of callbacks start the averages, and add them to an epoch's logs."""
    callbacks = keras.callbacks.CallbackList
    on_epoch_begin, on_epoch_end = callbacks.on_epoch_begin, callbacks.on_epoch_end

    @functools.wraps(on_epoch_begin)
    def start_and_begin(self, epoch, logs=None):
        model = getattr(self, "model", None)
        if isinstance(model, keras.Model):
            start_epoch(model)
        on_epoch_begin(self, epoch, logs)

    @functools.wraps(on_epoch_end)
    def add_and_end(self, epoch, logs=None):
        model = getattr(self, "model", None)
        if isinstance(model, keras.Model) and logs is not None:
            logs.update(of_epoch(model))
        on_epoch_end(self, epoch, logs)

    callbacks.on_epoch_begin, callbacks.on_epoch_end = start_and_begin, add_and_end
