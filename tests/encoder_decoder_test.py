import pathlib
import tempfile
import unittest

import keras
import numpy as np
from keras import ops

from keras_switch.layers import RelativePositionBias
from keras_switch.layers import SwitchTransformerBlock
from keras_switch.layers import dropless
from keras_switch.models import encoder_decoder
from keras_switch.models.cached_decoder import CachedDecoder


def build(**kwargs):
    sizes = {"vocabulary_size": 30, "hidden_dim": 16, "intermediate_dim": 32, "num_heads": 2}
    sizes.update(num_layers=2, num_experts=4, dtype="float32", seed=3)
    return encoder_decoder.build(**{**sizes, **kwargs})


def make_ids(*shape):
    return np.random.default_rng(0).integers(2, 30, shape).astype("int32")


def call(model, encoder_ids, decoder_ids, **kwargs):
    inputs = {"encoder_token_ids": encoder_ids, "decoder_token_ids": decoder_ids}
    with dropless():
        return ops.convert_to_numpy(model(inputs, **kwargs))


class EncoderDecoderTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        keras.utils.set_random_seed(0)
        cls.model = build()
        # As large as after training, so that biases matter and tokens do not repeat.
        for weight in cls.model.trainable_weights:
            weight.assign(weight * (1 if weight.path.startswith("token_embedding") else 6))

    def test_a_stack_has_one_relative_position_bias(self):
        biases = [x for x in self.model._flatten_layers() if isinstance(x, RelativePositionBias)]
        self.assertEqual(
            sorted((x.name, x.bidirectional) for x in biases),
            [("decoder_position_bias", False), ("encoder_position_bias", True)],
        )

    def test_every_other_block_is_sparse(self):
        blocks = [x for x in self.model.layers if isinstance(x, SwitchTransformerBlock)]
        self.assertEqual([block.num_experts for block in blocks], [None, 4, None, 4])

    def test_dropout_acts_on_the_embeddings_and_after_the_last_norms(self):
        names = [x.name for x in build(dropout=0.1).layers if isinstance(x, keras.layers.Dropout)]
        kinds = ("dropout", "embedding_dropout")
        expected = [f"{side}_{kind}" for side in ("decoder", "encoder") for kind in kinds]
        self.assertEqual(sorted(names), expected)

    def test_padding_changes_nothing(self):
        encoder_ids, decoder_ids = make_ids(2, 6), make_ids(2, 5)
        decoder_ids[:, 0] = 0
        padded = [np.pad(ids, ((0, 0), (0, 3))) for ids in (encoder_ids, decoder_ids)]
        expected = call(self.model, encoder_ids, decoder_ids)
        np.testing.assert_allclose(call(self.model, *padded)[:, :5], expected, rtol=1e-4, atol=1e-3)

    def test_padding_of_the_decoder_is_not_routed(self):
        block = self.model.get_layer("decoder_block_1").feed_forward
        block.reset_figures()
        decoder_ids = np.array([[0, 5, 6, 7, 0, 0, 0, 0]] * 2)
        call(self.model, make_ids(2, 6), decoder_ids, training=True)
        few = block.figures()["load"]
        block.reset_figures()
        call(self.model, make_ids(2, 6), decoder_ids[:, :4], training=True)
        np.testing.assert_allclose(few, block.figures()["load"], atol=1e-6)

    def test_decoder_mask_keeps_the_start(self):
        mask = encoder_decoder.decoder_mask(ops.convert_to_tensor([[0, 7, 0, 8], [0, 0, 0, 0]]))
        expected = [[True, True, False, True], [True, False, False, False]]
        self.assertEqual(ops.convert_to_numpy(mask).tolist(), expected)

    def test_cached_greedy_decoding_is_that_of_the_whole_model(self):
        encoder_ids = make_ids(3, 6)
        encoder_ids[0, 4:] = 0
        decoder = CachedDecoder(self.model)
        written = np.zeros((3, 1), "int32")
        with dropless():
            logits, caches, memory = decoder.start(encoder_ids, 9)
        for index in range(1, 9):
            whole = call(self.model, encoder_ids, written)[:, -1]
            np.testing.assert_allclose(ops.convert_to_numpy(logits), whole, rtol=1e-4, atol=1e-3)
            token = whole[:, 1:].argmax(-1).astype("int32") + 1
            written = np.concatenate([written, token[:, None]], axis=1)
            logits, caches = decoder.step(ops.convert_to_tensor(token), index, caches, memory)
        self.assertGreater(len(np.unique(written)), 6)

    def test_survives_saving(self):
        ids = make_ids(2, 6)
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory) / "model.keras"
            self.model.save(path)
            loaded = keras.models.load_model(path)
        np.testing.assert_array_equal(call(loaded, ids, ids), call(self.model, ids, ids))
        self.assertEqual(CachedDecoder(loaded).vocabulary_size, 30)


if __name__ == "__main__":
    unittest.main()
