"""Compares our models with what transformers computed, and writes them back.

PYTHONPATH=tests python prove/models_compare.py DIR    # after models_reference.py make DIR
"""

import pathlib
import sys
import unittest.mock

import gradients
import keras
import keras_hub
import numpy as np
from keras import ops

from keras_switch.layers import SwitchDense
from keras_switch.models import SwitchSeq2SeqLM
from keras_switch.weights.convert import convert

SAMPLERS = {"greedy": "greedy", "beam": keras_hub.samplers.BeamSampler(num_beams=4)}


def check(what, error, limit=1e-4):
    """Prints the largest error, and stops if it is above the limit."""
    print(f"    {what}: {error:.0e}")
    if not error <= limit:
        sys.exit(f"{what} differs: {error} > {limit}")


def check_equal(what, ours, theirs):
    same = np.array_equal(ours, theirs)
    print(f"    {what}: {'equal' if same else 'not equal'}")
    if not same:
        sys.exit(f"{what} differs.")


def largest(ours, theirs, mask=None):
    """Largest difference where the mask is not 0."""
    difference = np.abs(ops.convert_to_numpy(ours) - theirs)
    return difference.max() if mask is None else difference[mask > 0].max()


def inputs_of(saved):
    return {
        "encoder_token_ids": saved["input_ids"].astype("int32"),
        "encoder_padding_mask": saved["attention_mask"],
        "decoder_token_ids": saved["decoder_input_ids"].astype("int32"),
        "decoder_padding_mask": saved["decoder_attention_mask"],
    }


def cross_entropy(logits, saved):
    """Mean over the labels that are not padding."""
    mask = ops.cast(saved["decoder_attention_mask"], "float32")
    labels = np.maximum(saved["labels"], 0).astype("int32")
    losses = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    return ops.sum(losses * mask) / ops.sum(mask)


def compare_weights(model, saved):
    weights = model.backbone.named_weights()
    names = [key.removeprefix("weight/") for key in saved if key.startswith("weight/")]
    if sorted(names) != sorted(weights):
        sys.exit(f"Other weights: {sorted(set(names) ^ set(weights))}")
    same = all(np.array_equal(weights[name], saved[f"weight/{name}"]) for name in names)
    check_equal(f"{len(names)} weights, bit for bit", same, True)


def compare_outputs(model, saved):
    outputs = model.backbone(inputs_of(saved))
    encoded, mask = outputs["encoder_sequence_output"], saved["attention_mask"]
    check("encoder states", largest(encoded, saved["encoder_states"], mask))
    logits = model.backbone.logits(outputs["decoder_sequence_output"])
    check("logits", largest(logits, saved["logits"], saved["decoder_attention_mask"]))
    check("cross-entropy", largest(cross_entropy(logits, saved), saved["loss"]))


def compare_routers(model, saved):
    """Each router's logits; and where nothing is padding, its losses, too."""
    layers, seen = sparse_layers(model), {}
    call = SwitchDense.call

    def spy(layer, inputs, mask=None, training=None):
        seen[id(layer)] = layer.route(inputs, mask).logits
        return call(layer, inputs, mask, training)

    for layer in layers.values():
        layer.reset_routing_metrics()
    with unittest.mock.patch.object(SwitchDense, "call", spy):
        model.backbone(inputs_of(saved), training=True)
    masks = {"encoder": saved["attention_mask"], "decoder": saved["decoder_attention_mask"]}
    errors = {"router logits": [], "balance losses": [], "z-losses": []}
    for name, layer in layers.items():
        mask = masks[name.split("/")[0]]
        errors["router logits"].append(largest(seen[id(layer)], saved[f"router/{name}"], mask))
        if "router_losses" in saved:
            metrics = layer.get_routing_metrics()
            for key, kind in (("balance losses", "balance"), ("z-losses", "z")):
                own = metrics[f"{kind}_loss"]
                errors[key].append(largest(own, saved[f"{kind}/{name}"]))
    if "router_losses" in saved:
        for side in masks:
            own = [
                layer.get_routing_metrics()["z_loss"]
                for name, layer in layers.items()
                if side in name
            ]
            check(f"z-loss of the {side}, the mean", largest(np.mean(own), saved[f"z/{side}"]))
    for what, found in errors.items():
        if found:
            check(f"{what} of {len(layers)} layers", max(found))


def sparse_layers(model):
    """Dictionary of the Switch layers of the feed-forwards by side and number."""
    return {
        f"{side}/{i}": block.feed_forward
        for side in ("encoder", "decoder")
        for i, block in enumerate(getattr(model.backbone, f"{side}_blocks"))
        if block.num_experts is not None
    }


def compare_gradients(model, saved):
    """Gradients of the cross-entropy; with the routers' losses where each stack has one router."""
    named = model.backbone.named_weights()
    training = "router_losses" in saved and len(sparse_layers(model)) == 2
    total, found = loss_gradients(model, named, saved, training)
    what = "cross-entropy and the routers' losses" if training else "cross-entropy"
    check(f"{what}, to be differentiated", largest(total, saved["total_loss"]))
    theirs = {name: saved[f"gradient/{name}"] for name in named}
    check_gradients(found, theirs)


def loss_gradients(model, named, saved, training):
    """Returns the loss and its gradients by the variables of a dictionary, by name."""

    def loss(*values):
        mapping = list(zip(named.values(), values, strict=True))
        with keras.StatelessScope(mapping, collect_losses=True) as scope:
            total = cross_entropy(model(inputs_of(saved), training=training), saved)
        return total + sum(scope.losses)

    values = [ops.convert_to_numpy(weight) for weight in named.values()]
    total, found = gradients.gradients(loss, values)
    return total, dict(zip(named, found, strict=True))


def check_gradients(ours, theirs):
    errors = [largest(ours[name], theirs[name]) / np.abs(theirs[name]).max() for name in ours]
    check(f"{len(errors)} gradients, each over its largest entry", max(errors))


def compare_generation(model, saved):
    for name in SAMPLERS:
        prompts, length = saved[name].shape
        what = f"{prompts} x {length - 1} tokens by {name} search"
        check_equal(what, write(model, saved, name), saved[name])


def write(model, saved, sampler):
    """Writes after the prompts, as `generate` does, to one length."""
    prompts, length = saved["prompts"].astype("int32"), saved["greedy"].shape[1]
    start = np.zeros((len(prompts), length), "int32")
    inputs = {
        "encoder_token_ids": prompts,
        "encoder_padding_mask": saved["prompt_mask"],
        "decoder_token_ids": start,
        "decoder_padding_mask": start + (np.arange(length) == 0),
    }
    model.compile(sampler=SAMPLERS[sampler])
    written = model.generate(inputs, stop_token_ids=None)["decoder_token_ids"]
    return ops.convert_to_numpy(written)


def compare_round_trip(model, directory, name):
    """Converts our folder to transformers' form, and that one back."""
    folders = [directory / f"{name}-{end}" for end in ("keras", "back", "again")]
    convert(folders[0], folders[1], to="huggingface", verbose=0)
    convert(folders[1], folders[2], verbose=0)
    again = SwitchSeq2SeqLM.from_preset(str(folders[2]), dtype="float32").backbone.named_weights()
    weights = model.backbone.named_weights()
    same = all(np.array_equal(weights[name], again[name]) for name in weights | again)
    check_equal("weights after Keras -> transformers -> Keras", same, True)


def main(directory):
    for path in sorted(directory.glob("*.npz")):
        saved, name = dict(np.load(path)), path.stem
        print(f"{name}")
        convert(directory / name, directory / f"{name}-keras", verbose=0)
        model = SwitchSeq2SeqLM.from_preset(str(directory / f"{name}-keras"), dtype="float32")
        compare_weights(model, saved)
        compare_outputs(model, saved)
        compare_routers(model, saved)
        compare_gradients(model, saved)
        if "prompts" in saved:
            compare_generation(model, saved)
        compare_round_trip(model, directory, name)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
