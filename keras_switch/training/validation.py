"""What a pre-training run shows besides its losses: whether the model reads, and what it writes."""

import keras

from keras_switch.data.shuffled_inputs import shuffle_inputs
from keras_switch.models import fill_blanks


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


class ShowFillings(keras.callbacks.Callback):
    """Prints what the model fills the blanks of held-out texts with, beside the truth.

    Args:
        questions: List of `keras_switch.data.corpus.Question`.
        preprocessor: `SwitchSeq2SeqLMPreprocessor`.
        epochs: int. Epochs of the whole run. The last one has a table, too.
        every: int. Epochs between two tables; 0 for none.
        mesh: `keras_switch.tpu.Mesh` of the model, if it has one.
    """

    def __init__(self, questions, preprocessor, epochs, every=5, mesh=None):
        super().__init__()
        self.questions = questions
        self.preprocessor = preprocessor
        self.epochs = epochs
        self.every = every
        self.mesh = mesh

    def on_epoch_end(self, epoch, logs=None):
        done = epoch + 1
        if self.every and (done % self.every == 0 or done == self.epochs):
            model = self.mesh.whole(self.model) if self.mesh else self.model
            print(fillings_table(model, self.preprocessor, self.questions))


def fillings_table(model, preprocessor, questions):
    """Returns the lines that tell what a model fills the blanks of texts with."""
    before, model.preprocessor = model.preprocessor, preprocessor
    try:
        results = fill_blanks(model, [question.text for question in questions])
    finally:
        model.preprocessor = before
    lines = ["Held-out texts, and what the model fills their blanks with:"]
    for question, result in zip(questions, results, strict=True):
        lines.append(f"  {question.text}")
        for number, (answer, found) in enumerate(zip(question.answers, result, strict=True)):
            likely = ", ".join(f"{text} {share:.1%}" for text, share in found)
            lines.append(f"    <extra_id_{number}> was {answer!r}; the model: {likely}")
    return "\n".join(lines)
