"""What a pre-training run shows besides its losses: whether the model reads, and what it writes."""

import keras

from keras_switch.data.shuffled_inputs import shuffle_inputs


class ShuffledValidation(keras.callbacks.Callback):
    """Validates with the encoder inputs of another text, in `val_shuffled_` logs of each epoch.

    A decoder that does not read its encoder predicts as well from any inputs, and no loss curve
    shows that. The gap between `val_shuffled_` and `val_` of a metric shows it: where there is
    none, the model fills every blank with the same frequent words.

    Args:
        dataset: `tf.data.Dataset` of `(inputs, targets, weights)`, that of `validation_data`, with
            two texts or more in each batch.
        metric: string. Name of the metric to show.

    Example:
    >>> ShuffledValidation(batches.dataset(num_batches=8))  # doctest: +SKIP
    """

    def __init__(self, dataset, metric="nats_per_token"):
        super().__init__()
        self.dataset = shuffle_inputs(dataset)
        self.metric = metric

    def on_epoch_end(self, epoch, logs=None):
        values = self.model.evaluate(self.dataset, verbose=0, return_dict=True)
        logs[f"val_shuffled_{self.metric}"] = values[self.metric]
