"""One token after another from a model of `encoder_decoder.build`."""

from keras import ops


class CachedDecoder:
    """The decoder step by step, with the key/value caches of its blocks.

    What the encoder gives, and the keys and values of cross-attention, are computed once.
    Called in `keras_switch.layers.dropless()` it gives what the whole model gives there.

    Args:
        model: A model of `encoder_decoder.build`.
    """

    def __init__(self, model):
        names = {layer.name for layer in model.layers}
        num_layers = sum(name.startswith("decoder_block_") for name in names)
        self.embedding = model.get_layer("token_embedding")
        self.norms, self.biases, self.blocks = {}, {}, {}
        for side in ("encoder", "decoder"):
            self.norms[side] = model.get_layer(f"{side}_norm")
            self.biases[side] = model.get_layer(f"{side}_position_bias")
            self.blocks[side] = [
                model.get_layer(f"{side}_block_{number}") for number in range(num_layers)
            ]

    @property
    def vocabulary_size(self):
        return self.embedding.input_dim

    def start(self, encoder_ids, length):
        """Reads the encoder's ids and the 0 that starts the decoder.

        Args:
            encoder_ids: int32 tensor of shape `(batch, encoder_length)`.
            length: int. Number of steps that the caches have room for.

        Returns:
            The float32 logits of the first token, of shape `(batch, vocabulary_size)`; the
            caches, a list of tensors; and the memory, what every later step reads.
        """
        mask = ops.not_equal(encoder_ids, 0)
        encoded = self._encode(encoder_ids, mask)
        batch, encoder_length = ops.shape(encoder_ids)
        caches = [self._cache(block, batch, length) for block in self.blocks["decoder"]]
        crosses = [self._cache(block, batch, encoder_length) for block in self.blocks["decoder"]]
        starts = ops.zeros((batch,), dtype="int32")
        logits, caches, crosses = self._decode(starts, 0, caches, crosses, mask, encoded)
        return logits, caches, (crosses, mask)

    def step(self, ids, index, caches, memory):
        """Reads the tokens at one position.

        Args:
            ids: int32 tensor of shape `(batch,)`, the tokens at position `index`.
            index: int or int32 scalar tensor, from 1 on.
            caches: The caches after the position before.
            memory: What `start` returned.

        Returns:
            The logits of the next token, and the updated caches.
        """
        logits, caches, _ = self._decode(ids, index, caches, *memory)
        return logits, caches

    def _encode(self, ids, mask):
        x = self.embedding(ids)
        bias = self.biases["encoder"](x)
        for block in self.blocks["encoder"]:
            x = block(x, padding_mask=mask, position_bias=bias, training=False)
        return self.norms["encoder"](x)

    def _decode(self, ids, index, caches, crosses, mask, encoded=None):
        x = self.embedding(ids[:, None])
        bias = self.biases["decoder"](x, caches[0][:, 0], offset=index)
        new_caches, new_crosses = [], []
        for block, cache, cross in zip(self.blocks["decoder"], caches, crosses, strict=True):
            x, cache, cross = block(
                x,
                encoded,
                encoder_padding_mask=mask,
                position_bias=bias,
                self_attention_cache=cache,
                cache_update_index=index,
                cross_attention_cache=cross,
                training=False,
            )
            new_caches.append(cache)
            new_crosses.append(cross)
        x = self.norms["decoder"](x) * self.embedding.output_dim**-0.5
        logits = self.embedding(x, reverse=True)[:, 0]
        return logits, new_caches, new_crosses

    def _cache(self, block, batch, length):
        size = block.key_value_dim or self.embedding.output_dim // block.num_heads
        return ops.zeros((batch, 2, length, block.num_heads, size), dtype=block.compute_dtype)
