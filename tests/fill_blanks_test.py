"""Tests of `fill_blanks`: its probabilities, its order, and what it refuses."""

import importlib
import itertools
import unittest
import unittest.mock

import lm_helpers
import numpy as np
from absl.testing import parameterized
from fill_blanks_helpers import make
from keras import ops

from keras_switch.models import cached_decoding
from keras_switch.models import fill_blanks

# The function hides its module.
fill_blanks_module = importlib.import_module("keras_switch.models.fill_blanks")
TEXT = "The <extra_id_0> walks to a small<extra_id_1>."
TEXTS = [TEXT, "<extra_id_0> is the house of a longer text of the small people and of sleep"]


def probabilities(model, text, prefixes):
    """Those of the id after each prefix of the decoder's row, computed without a cache."""
    ids = [*model.preprocessor.tokenizer.tokenize(text), 1]
    inputs = {"encoder_token_ids": np.array([ids]), "encoder_padding_mask": np.ones((1, len(ids)))}
    _, logits = lm_helpers.uncached(model, inputs, np.array(prefixes, "int32"))
    logits = ops.convert_to_numpy(lm_helpers.without_padding(logits))[:, -1].astype("float64")
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    return odds / odds.sum(-1, keepdims=True)


def ends(tokenizer):
    return [*tokenizer.sentinel_ids, tokenizer.end_token_id]


def naive(model, text, prefix, ids):
    """The probability of the filling `ids`, and of its end, after a prefix."""
    product = 1.0
    for token in ids:
        product *= probabilities(model, text, [prefix])[0, token]
        prefix = [*prefix, token]
    return (
        product * probabilities(model, text, [prefix])[0, ends(model.preprocessor.tokenizer)].sum()
    )


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-3)


class FillBlanksTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = make()
        cls.tokenizer = cls.model.preprocessor.tokenizer
        cls.sentinels = cls.tokenizer.sentinel_ids

    def test_candidates_are_the_likeliest_of_all(self):
        words = [i for i in range(3, self.tokenizer.vocabulary_size()) if i not in self.sentinels]
        start, over = [0, self.sentinels[0]], ends(self.tokenizer)
        pairs = list(itertools.product(words, words))
        first = probabilities(self.model, TEXT, [start])[0]
        second = probabilities(self.model, TEXT, [[*start, word] for word in words])
        second = dict(zip(words, second, strict=True))
        third = probabilities(self.model, TEXT, [[*start, *pair] for pair in pairs])
        fillings = [((a,), first[a] * second[a][over].sum()) for a in words]
        fillings += [
            ((a, b), first[a] * second[a][b] * p[over].sum())
            for (a, b), p in zip(pairs, third, strict=True)
        ]
        best = {}
        for ids, probability in sorted(fillings, key=lambda pair: -pair[1])[:40]:
            best.setdefault(self.tokenizer.detokenize(list(ids)).strip(), probability)
        best.pop("", None)
        expected = list(best.items())[:3]
        candidates = fill_blanks(self.model, TEXT, max_length=2)[0]
        self.assertEqual([name for name, _ in candidates], [name for name, _ in expected])
        close([value for _, value in candidates], [value for _, value in expected])
        self.assertGreater(candidates[0][1], 1.2 * candidates[2][1])

    def test_later_blanks_follow_the_likeliest_fillings(self):
        # With one token, pieces tell which: a word of a piece has no other.
        fillings = fill_blanks(self.model, TEXT, num_candidates=20, max_length=1)
        self.assertLen(fillings, 2)
        prefix = [0]
        for sentinel, candidates in zip(self.sentinels, fillings, strict=False):
            prefix.append(sentinel)
            for text, probability in candidates:
                ways = [self.tokenizer.token_to_id(name) for name in (text, f"▁{text}")]
                known = [way for way in ways if way != 2]
                close(probability, max(naive(self.model, TEXT, prefix, [way]) for way in known))
            values = [value for _, value in candidates]
            self.assertEqual(values, sorted(values, reverse=True))
            names = [text for text, _ in candidates]
            self.assertEqual(len(set(names)), len(names))
            best = self.tokenizer.token_to_id(names[0])
            prefix.append(best if best != 2 else self.tokenizer.token_to_id(f"▁{names[0]}"))

    def test_texts_do_not_depend_on_each_other(self):
        together = fill_blanks(self.model, TEXTS)
        for text, fillings in zip(TEXTS, together, strict=True):
            alone = fill_blanks(self.model, [text.encode()])[0]
            self.assertEqual(alone.text, fillings.text)
            for candidates, others in zip(alone, fillings, strict=True):
                self.assertEqual([name for name, _ in candidates], [name for name, _ in others])
                close([value for _, value in candidates], [value for _, value in others])
        self.assertEqual(fill_blanks(self.model, []), [])

    def test_the_whole_text(self):
        # Whether a filling starts a word decides on the space before it.
        text = fill_blanks_module._Text(
            self.tokenizer, "\n<extra_id_1>,  <extra_id_0> ab<extra_id_2>!"
        )
        self.assertEqual(text.filled([" the", " dog", " house"]), "\nthe,  dog ab house!")
        self.assertEqual(text.filled(["the", ".", "s"]), "the,. abs!")
        self.assertEqual(text.sentinel_ids, [self.sentinels[i] for i in (1, 0, 2)])

    def test_the_same_shapes_are_not_traced_again(self):
        model = make(seed=4)
        step = unittest.mock.Mock(side_effect=cached_decoding.step)
        with unittest.mock.patch.object(cached_decoding, "step", step):
            before = fill_blanks(model, TEXTS)
            calls = step.call_count
            self.assertEqual(fill_blanks(model, TEXTS[::-1]), before[::-1])
            self.assertEqual(step.call_count, calls)
            for weight in model.trainable_variables:
                weight.assign(ops.flip(weight))
            self.assertNotEqual(fill_blanks(model, TEXTS), before)
            self.assertEqual(step.call_count, calls)
            # Another tokenizer has other sentinels.
            model.preprocessor = make().preprocessor
            fill_blanks(model, TEXTS)
            self.assertGreater(step.call_count, calls)

    @parameterized.parameters(
        (3, {}, "`texts` must be a text, or a list of texts. Received: 3"),
        ([TEXT, None], {}, "`texts` must be a text, or a list of texts. Received: None"),
        ("", {}, "must have a blank, `<extra_id_0>`, .* Received: ''"),
        ([TEXT, "The house."], {}, "must have a blank, .* Received: 'The house.'"),
        (f"{TEXT} <extra_id_3>", {}, "has 3 sentinels, .* Received: <extra_id_3>"),
        (f"{TEXT} <extra_id_0>", {}, "a sentinel of its own.*Received: 'The"),
        (TEXT, {"num_candidates": 0}, "`num_candidates` must be a positive integer"),
        (TEXT, {"max_length": 0}, "`max_length` must be a positive integer"),
    )
    def test_what_is_wrong_is_explained(self, texts, kwargs, message):
        with self.assertRaisesRegex(ValueError, message):
            fill_blanks(self.model, texts, **kwargs)

    def test_a_model_without_a_tokenizer_is_an_error(self):
        for model in (lm_helpers.make(), self.model.backbone, None):
            with self.assertRaisesRegex(ValueError, "a `SwitchSeq2SeqLM` with a preprocessor"):
                fill_blanks(model, TEXT)
        model = lm_helpers.make()
        model.preprocessor = self.model.preprocessor
        with self.assertRaisesRegex(ValueError, "46 pieces, and a model of 30 ids"):
            fill_blanks(model, TEXT)


if __name__ == "__main__":
    unittest.main()
