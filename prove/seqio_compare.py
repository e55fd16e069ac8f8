"""Compares our data pipeline with what T5's gave.

python prove/seqio_compare.py CASES.json      (after seqio_reference.py CASES.json)
"""

import base64
import json
import sys
import types
import unittest.mock

import numpy as np
import tensorflow as tf

from keras_switch import data
from keras_switch.data import packing
from keras_switch.data import randomness
from keras_switch.data import span_corruption
from keras_switch.data import tasks
from keras_switch.models import SwitchTokenizer

SIZE = 1000
IDS = tasks.SpecialIds(list(range(SIZE - 1, SIZE - 101, -1)), end=1, pad=0)
TOKENIZER = types.SimpleNamespace(
    end_token_id=1, pad_token_id=0, sentinel_ids=IDS.sentinels, vocabulary_size=lambda: SIZE
)


def check(what, ours, theirs):
    if not np.array_equal(ours, theirs):
        sys.exit(f"{what} differs: {ours} and not {theirs}.")


def compare_vocabulary(cases):
    tokenizer = SwitchTokenizer(base64.b64decode(cases["model"]))
    check("Sentinels", tokenizer.sentinel_ids, cases["sentinels"])
    for case in cases["texts"]:
        check("Ids of a text", tokenizer(case["text"]), case["ids"])
    print(f"Ids of {len(cases['texts'])} texts and of 100 sentinels: equal")
    return tokenizer


def compare_span_lengths(cases):
    equal, padded, failing = 0, 0, 0
    for inputs_length, density, mean, length, targets_length in cases["span_lengths"]:
        plan = span_corruption.plan(inputs_length, density, mean)
        check("Length of inputs", plan.inputs_length, inputs_length)
        num_noise = round(length * density)
        num_spans = round(num_noise / mean)
        if num_spans > length - num_noise:
            failing += 1
        elif not num_spans or length - num_noise + num_spans + 1 < inputs_length:
            padded += 1
        else:
            equal += 1
            check("Lengths of a text and of its targets", plan[:1], (length,))
            check("Length of targets", plan.targets_length, targets_length)
    print(f"Lengths of texts and targets: {equal} equal, and others where T5 pads its inputs or")
    print(f"counts no span though its mask has one ({padded}), or has no mask at all ({failing})")


def cuts(mask, value):
    """Where the spans of a value end, among its tokens."""
    changes = np.flatnonzero(np.diff(mask)) + 1
    lengths = np.diff([0, *changes, len(mask)])
    return np.concatenate([[0], np.cumsum(lengths[int(value) :: 2])]).astype("int32")[np.newaxis]


def compare_corruption(cases):
    for case in cases["corrupted"]:
        tokens, mask = (np.array(case[name]) for name in ("tokens", "mask"))
        inputs, targets = span_corruption.corrupt(
            tf.constant(tokens, tf.int32), tf.constant(mask), IDS.sentinels, IDS.end
        )
        check("Corrupted inputs", inputs, case["inputs"])
        check("Targets", targets, case["targets"])
        plan = span_corruption.for_length(len(tokens), case["density"], case["mean"])
        num_spans = int((np.diff(mask.astype(int)) == 1).sum())
        check("Number of tokens and spans", plan, (len(tokens), mask.sum(), num_spans))
        both = [cuts(mask, False), cuts(mask, True)]
        with unittest.mock.patch.object(span_corruption, "_random_cuts", side_effect=both):
            check("Mask of these spans", span_corruption.noise_mask(plan, tf.zeros((1, 2))), [mask])
    print(f"Span corruption of {len(cases['corrupted'])} texts, given T5's masks: equal")
    print("These masks, given the lengths of their spans: equal")
    plan = span_corruption.Plan(12, 6, 3)
    masks = span_corruption.noise_mask(plan, randomness.seeds(0, np.arange(3000)))
    check("Possible masks", np.unique(masks, axis=0), cases["possible_masks"])
    print(f"All masks in 3,000 draws of a text of 12 tokens: {len(cases['possible_masks'])}, equal")


def compare_language_models(cases, tokenizer):
    count = 0
    for length, examples in cases["prefixes"].items():
        task = data.PrefixLM(int(length))
        for example in examples:
            prefix, rest = example["inputs"][:-1], example["targets"][:-1]
            chunk = tf.constant([prefix + rest])
            if chunk.shape[1] < task.chunk_length:
                continue  # T5 keeps what is left of a text, and so has shorter chunks.
            count += 1
            sides = task.split_at(chunk, tf.constant([[len(prefix)]]), IDS)
            for side, name in zip(sides, ("inputs", "targets")):
                padding = [0] * (side.shape[1] - len(example[name]))
                check(f"Prefix-LM's {name}", side[0], example[name] + padding)
    print(f"Prefix-LM of {count} chunks, given T5's prefixes: equal")
    task = data.PrefixLM(10)
    inputs, _ = task.split(
        tf.ones((500, 9), tf.int32) * 5, randomness.seeds(0, np.arange(500)), IDS
    )
    sizes = np.unique((inputs.numpy() == 5).sum(axis=1))
    check("Lengths of prefixes", sizes, cases["prefix_sizes"])
    print(f"All lengths of prefixes in 500 draws: {len(sizes)}, equal")
    ids = tasks.SpecialIds.of(tokenizer)
    for text, example in zip(cases["texts"], cases["language_model"], strict=True):
        tokens = tf.constant([text["ids"]])
        inputs, targets = data.CausalLM(tokens.shape[1] + 1).split(tokens, None, ids)
        check("Language model's inputs", inputs[0], example["inputs"])
        check("Language model's targets", targets[0], example["targets"])
    print(f"Language model of {len(cases['language_model'])} texts: equal")


def our_rows(pairs, lengths):
    """Rows of pairs in their order, under seqio's names."""
    sides = [[pair[side] for pair in pairs] for side in ("inputs", "targets")]
    with (
        unittest.mock.patch.object(randomness, "permutation", lambda count, seed: np.arange(count)),
        unittest.mock.patch.object(randomness, "shuffled", lambda indices, count, seed: indices),
    ):
        batches = data.PairBatches(*sides, TOKENIZER, *lengths, 1, packed=True)
        rows = list(batches.dataset(num_batches=batches.batches_per_epoch))
    for x, targets, weights in rows:
        masks = x["encoder_padding_mask"], x["decoder_padding_mask"]
        yield {
            "encoder_input_tokens": x["encoder_token_ids"][0],
            "decoder_input_tokens": x["decoder_token_ids"][0],
            "decoder_target_tokens": targets[0],
            "decoder_loss_weights": weights[0],
            "encoder_segment_ids": masks[0][0],
            "decoder_segment_ids": masks[1][0],
            "encoder_positions": packing.packed_positions(masks[0])[0],
            "decoder_positions": packing.packed_positions(masks[1])[0],
        }


def compare_packing(cases):
    for case in cases["packed"]:
        # seqio ends a row after so many pairs.
        step = max(case["lengths"])
        parts = [case["pairs"][i : i + step] for i in range(0, len(case["pairs"]), step)]
        ours = [row for part in parts for row in our_rows(part, case["lengths"])]
        for row, theirs in zip(ours, case["rows"], strict=True):
            check("Names", sorted(row), sorted(theirs))
            for name, value in row.items():
                check(name, value, theirs[name])
        print(f"{len(case['pairs'])} pairs packed in {len(ours)} rows: equal, in all of seqio's")
        print("features; " + ("in one go" if len(parts) == 1 else f"{step} pairs at a time"))


def compare_mixing(cases):
    for case in cases["mixing"]:
        ours = data.mixture_rates(case["sizes"], 1 / case["temperature"], case["maximum"])
        if not np.allclose(ours, case["shares"], rtol=1e-12):
            sys.exit(f"Mixing rates differ: {ours} and not {case['shares']}.")
    print(f"Rates of {len(cases['mixing'])} mixtures: equal")


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        saved = json.load(file)
    compare_language_models(saved, compare_vocabulary(saved))
    compare_span_lengths(saved)
    compare_corruption(saved)
    compare_packing(saved)
    compare_mixing(saved)
    print("Equal to t5 and seqio.")
