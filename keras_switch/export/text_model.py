"""SavedModels that take and give text."""

import tensorflow as tf

from keras_switch.data.vocabulary import EOS
from keras_switch.export import blanks
from keras_switch.export import saved_model


def export_text_model(model, vocabulary, path, max_length=64):
    """Exports a model of `encoder_decoder.build` as a SavedModel that fills blanks.

    It takes a batch of strings, `text`, with blanks `<extra_id_0>`, `<extra_id_1>`, ...,
    and gives `filled`, the texts with each blank filled in; `completion`, the text that
    the decoder wrote; and `ids`, its ids. It decodes greedily with key/value caches and
    drops no token, so an answer does not depend on the other texts of its batch.

    Args:
        model: `keras.Model`.
        vocabulary: `keras_switch.data.Vocabulary`.
        path: Path of the directory of versions.
        max_length: int. The longest completion, in ids.

    Returns:
        Path of the version.

    Raises:
        ValueError: If `max_length` is not positive, or the vocabulary is not the model's.
    """
    if not isinstance(max_length, int) or max_length < 1:
        raise ValueError(f"`max_length` must be a positive integer. Received: {max_length=}")
    size = model.get_layer("token_embedding").input_dim
    if vocabulary.size != size:
        raise ValueError(
            "`vocabulary` must be the model's own. Received: "
            f"vocabulary.size={vocabulary.size}, and a model of {size} ids"
        )
    decoder = GreedyDecoder(model, max_length)
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
    """Greedy decoding with the key/value caches of the blocks.

    The encoder and the keys and values of cross-attention are computed once.

    Args:
        model: A model of `encoder_decoder.build`.
        max_length: int. The longest completion, in ids.
    """

    def __init__(self, model, max_length):
        self.embedding = model.get_layer("token_embedding")
        self.norms = {side: model.get_layer(f"{side}_norm") for side in ("encoder", "decoder")}
        self.blocks = {
            side: [layer for layer in model.layers if layer.name.startswith(f"{side}_block_")]
            for side in ("encoder", "decoder")
        }
        self.max_length = max_length

    def __call__(self, encoder_ids):
        """Ids of shape `(batch, max_length)`, with zeros after EOS."""
        mask = encoder_ids != 0
        encoded = self.embedding(encoder_ids)
        for block in self.blocks["encoder"]:
            encoded = block(encoded, padding_mask=mask, training=False)
        encoded = self.norms["encoder"](encoded)
        batch = tf.shape(encoder_ids)[0]
        length = self.max_length
        ids = tf.zeros((batch, length + 1), tf.int32)
        caches = [self._cache(block, batch, length) for block in self.blocks["decoder"]]
        crosses = [
            self._cache(block, batch, tf.shape(encoder_ids)[1]) for block in self.blocks["decoder"]
        ]
        # The first step also fills the caches of cross-attention.
        token, caches, crosses = self._step(ids[:, :1], encoded, mask, caches, crosses, 0)
        ids = self._write(ids, token, 1)
        finished = token == EOS

        def go_on(index, ids, finished, caches):
            return (index < length) & ~tf.reduce_all(finished)

        def body(index, ids, finished, caches):
            last = tf.gather(ids, [index], axis=1)
            token, caches, _ = self._step(last, None, mask, caches, crosses, index)
            token = tf.where(finished, 0, token)
            return index + 1, self._write(ids, token, index + 1), finished | (token == EOS), caches

        loop = (tf.constant(1), ids, finished, caches)
        _, ids, _, _ = tf.while_loop(go_on, body, loop)
        return tf.ensure_shape(ids[:, 1:], (None, length))

    def _step(self, last, encoded, mask, caches, crosses, index):
        """The next token of each text, and the updated caches."""
        x = self.embedding(last)
        new_caches, new_crosses = [], []
        for block, cache, cross in zip(self.blocks["decoder"], caches, crosses, strict=True):
            x, cache, cross = block(
                x,
                encoded,
                encoder_padding_mask=mask,
                self_attention_cache=cache,
                cache_update_index=index,
                cross_attention_cache=cross,
                training=False,
            )
            new_caches.append(cache)
            new_crosses.append(cross)
        x = self.norms["decoder"](x) * self.embedding.output_dim**-0.5
        logits = self.embedding(x, reverse=True)[:, 0]
        return tf.argmax(logits, axis=-1, output_type=tf.int32), new_caches, new_crosses

    def _cache(self, block, batch, length):
        size = block.key_value_dim or self.embedding.output_dim // block.num_heads
        return tf.zeros((batch, 2, length, block.num_heads, size), block.compute_dtype)

    def _write(self, ids, token, index):
        return tf.where(tf.range(self.max_length + 1) == index, token[:, None], ids)
