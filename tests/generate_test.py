import unittest
import unittest.mock

import keras
import keras_hub
import lm_helpers
import mesh_helpers
import numpy as np
import tokenizer_helpers
from absl.testing import parameterized
from block_helpers import numpy
from keras import ops

from keras_switch.models import SwitchSeq2SeqLM
from keras_switch.models import SwitchSeq2SeqLMPreprocessor
from keras_switch.models import SwitchTokenizer
from keras_switch.models import cached_decoding
from keras_switch.tpu import Mesh

samplers = keras_hub.samplers
SAMPLERS = {
    "greedy": samplers.GreedySampler,
    "top_k": lambda: samplers.TopKSampler(k=3, seed=0),
    "top_p": lambda: samplers.TopPSampler(p=0.8, seed=0),
    "random": lambda: samplers.RandomSampler(seed=0),
    "beam": lambda: samplers.BeamSampler(num_beams=3),
    "contrastive": lambda: samplers.ContrastiveSampler(k=3, alpha=0.4),
}
PROMPTS = (5, 3, 4)
# Tied random weights would repeat a token for ever, and other seeds soon do.
VARIED = {"tie_embedding_weights": False, "seed": 8}


def write(model, inputs, stop_token_ids=None, **kwargs):
    """The ids and the mask that a model writes."""
    model.compile(**{"sampler": "greedy", "jit_compile": False} | kwargs)
    outputs = model.generate(inputs, stop_token_ids=stop_token_ids)
    return tuple(numpy(outputs[f"decoder_{name}"]) for name in ("token_ids", "padding_mask"))


class GenerateTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = lm_helpers.make(**VARIED)

    @parameterized.parameters(*lm_helpers.VARIANTS)
    def test_a_cached_step_equals_the_whole_model(self, variant):
        model = lm_helpers.make(**lm_helpers.VARIANTS[variant])
        inputs = lm_helpers.to_generate(2, (9, 9))
        # Three rows of the decoder, such as beams, for each of the encoder.
        decoder_ids = lm_helpers.ids(6, 9)
        states, logits = lm_helpers.uncached(model, inputs, decoder_ids)
        memory = cached_decoding.read(
            model.backbone, inputs["encoder_token_ids"], inputs["encoder_padding_mask"]
        )
        caches = cached_decoding.empty_caches(model.backbone, 6, 9)

        def step(piece, start, caches):
            return cached_decoding.step(model.backbone, piece, start, caches, memory)

        step = lm_helpers.compiled_on_jax(step)
        # JAX's encoder alone, compiled or not, moves logits by as much as 1.5e-4.
        for start, end in ((0, 5), (5, 6), (6, 9)):
            piece = ops.array(decoder_ids[:, start:end])
            x, caches = step(piece, ops.array(start, "int32"), caches)
            np.testing.assert_allclose(x, states[:, start:end], atol=5e-4)
            np.testing.assert_allclose(model.backbone.logits(x), logits[:, start:end], atol=5e-4)

    @parameterized.parameters((1, 1, 1), PROMPTS)
    def test_greedy_equals_the_whole_model_step_by_step(self, *prompts):
        inputs = lm_helpers.to_generate(3, prompts)
        written, is_text = write(self.model, inputs)
        np.testing.assert_array_equal(written, lm_helpers.greedy(self.model, inputs))
        self.assertGreater(len(np.unique(written)), 6)
        self.assertTrue(is_text.all())

    def test_under_xla(self):
        inputs = lm_helpers.to_generate(3, PROMPTS)
        written, _ = write(self.model, inputs, jit_compile=True)
        np.testing.assert_array_equal(written, lm_helpers.greedy(self.model, inputs))

    @parameterized.parameters(*SAMPLERS)
    def test_samplers_choose_as_from_the_whole_model(self, name):
        inputs = lm_helpers.to_generate(3, PROMPTS)
        written, _ = write(self.model, inputs, sampler=SAMPLERS[name]())

        def next(prompt, cache, index):
            states, logits = lm_helpers.uncached(self.model, inputs, prompt)
            logits = lm_helpers.without_padding(logits)
            return logits[:, index - 1], states[:, index - 1], cache

        prompt = inputs["decoder_token_ids"]
        states, _ = lm_helpers.uncached(self.model, inputs, prompt)
        mask = ops.array(inputs["decoder_padding_mask"])
        state = {"cache": (), "index": min(PROMPTS), "mask": mask, "hidden_states": states}
        expected = SAMPLERS[name]()(next=next, prompt=ops.array(prompt), **state)
        np.testing.assert_array_equal(written, numpy(expected))

    @parameterized.parameters(*SAMPLERS)
    def test_samplers_never_write_padding(self, name):
        logits = self.model.backbone.logits

        def of_padding(states):
            return logits(states) + 100.0 * ops.one_hot(0, 30, dtype="float32")

        inputs = lm_helpers.to_generate(3, PROMPTS)
        with unittest.mock.patch.object(self.model.backbone, "logits", of_padding):
            written, _ = write(self.model, inputs, sampler=SAMPLERS[name]())
        self.assertTrue((written[~inputs["decoder_padding_mask"]] > 0).all(), written)

    def test_samplers_differ(self):
        inputs = lm_helpers.to_generate(3, PROMPTS)
        kinds = ("greedy", "random", "beam")
        texts = {write(self.model, inputs, sampler=SAMPLERS[name]())[0].tobytes() for name in kinds}
        self.assertLen(texts, len(kinds))

    def test_a_text_does_not_depend_on_its_batch(self):
        inputs = lm_helpers.to_generate(3, PROMPTS)
        together, _ = write(self.model, inputs)
        for row in range(3):
            alone = {name: x[row : row + 1] for name, x in inputs.items()}
            np.testing.assert_array_equal(write(self.model, alone)[0], together[row : row + 1])

    def test_stops(self):
        inputs = lm_helpers.to_generate(3)
        whole, _ = write(self.model, inputs)
        # The tokens after which each row has been stopped.
        stops = [int(row[3]) for row in whole]
        written, is_text = write(self.model, inputs, stop_token_ids=stops)
        ends = [min(i for i in range(1, 9) if row[i] in stops) for row in whole]
        for row, end in enumerate(ends):
            self.assertEqual(is_text[row].tolist(), [i <= end for i in range(9)])
        last = max(ends)
        np.testing.assert_array_equal(written[:, : last + 1], whole[:, : last + 1])
        np.testing.assert_array_equal(written[:, last + 1 :], 0)

    def test_a_stop_in_the_prompt_does_not_count(self):
        inputs = lm_helpers.to_generate(3, PROMPTS)
        stop = int(inputs["decoder_token_ids"][1, 1])
        _, is_text = write(self.model, inputs, stop_token_ids=(stop,))
        self.assertTrue(is_text[1, :3].all())

    @parameterized.parameters("mixed_bfloat16", "bfloat16")
    def test_dtypes(self, dtype):
        model = lm_helpers.make(**VARIED, dtype=dtype)
        inputs = lm_helpers.to_generate()
        written, _ = write(model, inputs)
        # Tokens are as likely as those of the whole model, as far as bfloat16 tells.
        _, logits = lm_helpers.uncached(model, inputs, written)
        self.assertEqual(keras.backend.standardize_dtype(logits.dtype), "float32")
        logits = numpy(logits)[:, :-1]
        chosen = np.take_along_axis(logits, written[:, 1:, None].astype(int), -1)[..., 0]
        np.testing.assert_array_less(logits.max(-1) - chosen, 0.1 * np.ptp(logits))

    def test_a_row_without_a_prompt_is_an_error(self):
        for prompts in ((0, 0, 0), (1, 0, 1)):
            inputs = lm_helpers.to_generate(3, prompts)
            with self.assertRaisesRegex(ValueError, r"must start with a 1.*at.*rows \[.*1.*\]"):
                write(self.model, inputs)

    def test_strings(self):
        tokenizer = SwitchTokenizer(tokenizer_helpers.spiece_model())
        size = tokenizer.vocabulary_size()
        backbone = lm_helpers.make(vocabulary_size=size).backbone
        model = SwitchSeq2SeqLM(backbone, SwitchSeq2SeqLMPreprocessor(tokenizer, 8, 6))
        model.compile(sampler="greedy")
        texts = ["The <extra_id_0> walks.", "a"]
        together = model.generate(texts, max_length=7)
        self.assertEqual([model.generate(text, max_length=7) for text in texts], together)
        prompted = {"encoder_text": texts, "decoder_text": ["the people", "the"]}
        continued = model.generate(prompted, max_length=7)
        self.assertNotEqual(continued, together)
        for text, prompt in zip(continued, prompted["decoder_text"], strict=True):
            self.assertStartsWith(text, prompt)
        model.preprocessor = None
        with self.assertRaisesRegex(ValueError, "`preprocessor` must be attached"):
            model.generate(lm_helpers.to_generate())

    def test_on_a_mesh(self):
        inputs = lm_helpers.to_generate(8, (1,) * 8)
        expected, _ = write(self.model, inputs)
        mesh = Mesh("batch:4", mesh_helpers.EXPERTS)
        self.addCleanup(keras.distribution.set_distribution, None)
        with mesh.scope():
            split = lm_helpers.make(**VARIED)
        if mesh_helpers.IS_TENSORFLOW:
            with self.assertRaisesRegex(ValueError, r"whole weights.*`mesh.whole\(model\)`"):
                write(split, inputs)
            split = mesh.whole(split)
        np.testing.assert_array_equal(write(split, inputs)[0], expected)


if __name__ == "__main__":
    unittest.main()
