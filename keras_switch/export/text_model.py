"""SavedModels that take and give text."""

import tensorflow as tf

from keras_switch.data.vocabulary import EOS
from keras_switch.data.vocabulary import PAD
from keras_switch.export import blanks
from keras_switch.export import saved_model
from keras_switch.models import cached_decoding


def export_text_model(model, vocabulary, path, max_length=64):
    """Exports a language model as a SavedModel that fills blanks.

    It takes a batch of strings, `text`, with blanks `<extra_id_0>`, `<extra_id_1>`, ...,
    and gives `filled`, the texts with each blank filled in; `completion`, the text that
    the decoder wrote; and `ids`, its ids. It decodes greedily with key/value caches and
    drops no token, so an answer does not depend on the other texts of its batch.

    Args:
        model: `keras_switch.models.SwitchSeq2SeqLM`.
        vocabulary: `keras_switch.data.Vocabulary`.
        path: Path of the directory of versions. The next free one is written.
        max_length: int. The longest completion, in ids.

    Returns:
        Path of the version.

    Raises:
        ValueError: If `max_length` is not positive, the vocabulary is not the model's, or
            the Keras backend is not TensorFlow.
    """
    saved_model.check_backend()
    if not isinstance(max_length, int) or max_length < 1:
        raise ValueError(f"`max_length` must be a positive integer. Received: {max_length=}")
    decoder = GreedyDecoder(model, max_length)
    size = model.backbone.vocabulary_size
    if vocabulary.size != size:
        raise ValueError(
            "`vocabulary` must be the model's own. Received: "
            f"vocabulary.size={vocabulary.size}, and a model of {size} ids"
        )
    first = vocabulary.first_sentinel
    last = first - vocabulary.num_sentinels + 1

    def serve(text):
        # A blank stands for the space before it too.
        text = tf.strings.regex_replace(text, r"\s*(<extra_id_\d+>)", r"\1")
        ids = vocabulary.tokenize(text)
        ids = tf.concat([ids, tf.fill((ids.nrows(), 1), EOS)], axis=1).to_tensor()
        completions = decoder(ids)
        filled = blanks.fill(ids, completions, last, first)
        lengths = tf.reduce_sum(tf.cast(completions > EOS, tf.int32), axis=1)
        return {
            "filled": vocabulary.detokenize(filled),
            "completion": vocabulary.detokenize(tf.RaggedTensor.from_tensor(completions, lengths)),
            "ids": completions,
        }

    signature = [tf.TensorSpec((None,), tf.string, name="text")]
    return saved_model.write(model, serve, signature, path, resources=[vocabulary.tokenizer])


class GreedyDecoder:
    """Greedy decoding with the key/value caches of the blocks. It never writes padding.

    Args:
        model: `keras_switch.models.SwitchSeq2SeqLM`.
        max_length: int. The longest completion, in ids.
    """

    def __init__(self, model, max_length):
        self.backbone = model.backbone
        self.max_length = max_length

    def __call__(self, encoder_ids):
        """Ids of shape `(batch, max_length)`, with zeros after EOS."""
        batch = tf.shape(encoder_ids)[0]
        memory = cached_decoding.read(self.backbone, encoder_ids, encoder_ids != PAD)
        caches = cached_decoding.empty_caches(self.backbone, batch, self.max_length)

        def go_on(index, ids, token, finished, caches):
            return (index < self.max_length) & ~tf.reduce_all(finished)

        def body(index, ids, token, finished, caches):
            args = (token[:, None], index, caches, memory)
            states, caches = cached_decoding.step(self.backbone, *args)
            token = tf.where(finished, PAD, _likeliest(self.backbone.logits(states)[:, 0]))
            ids = tf.where(tf.range(self.max_length) == index, token[:, None], ids)
            return index + 1, ids, token, finished | (token == EOS), caches

        ids = tf.fill((batch, self.max_length), PAD)
        loop = (0, ids, tf.fill((batch,), PAD), tf.zeros((batch,), bool), caches)
        _, ids, _, _, _ = tf.while_loop(go_on, body, loop)
        return tf.ensure_shape(ids, (None, self.max_length))


def _likeliest(logits):
    """The likeliest ids other than padding."""
    is_padding = tf.range(tf.shape(logits)[-1]) == PAD
    return tf.argmax(tf.where(is_padding, logits.dtype.min, logits), -1, output_type=tf.int32)
