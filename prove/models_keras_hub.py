"""Compares the dense models with KerasHub's T5, to which it copies their weights.

PYTHONPATH=tests python prove/models_keras_hub.py DIR    # after models_reference.py make DIR
"""

import pathlib
import sys

import keras
import keras_hub
import lm_helpers
import models_compare
import numpy as np
from keras import ops

from keras_switch.models import SwitchBackbone
from keras_switch.models import SwitchSeq2SeqLM

NUM_LAYERS = 3
SIZES = {
    "vocabulary_size": 101,
    "num_layers": NUM_LAYERS,
    "num_heads": 3,
    "hidden_dim": 36,
    "intermediate_dim": 50,
    "key_value_dim": 20,
    "dropout": 0.0,
    "dtype": "float32",
}
VERSIONS = {
    "T5 1.0": ("relu", False, True),
    "T5 1.1": ("gelu_approximate", True, False),
}


class NeverPads(keras_hub.models.T5Seq2SeqLM):
    """KerasHub's model, but `generate` never writes padding, as ours never does."""

    def call_decoder_with_cache(self, *args, **kwargs):
        logits, *others = super().call_decoder_with_cache(*args, **kwargs)
        return lm_helpers.without_padding(logits), *others


def gelu_approximate(x):
    return keras.activations.gelu(x, approximate=True)


def build(version):
    """Returns our model and KerasHub's, with the same random weights."""
    activation, gated, tied = VERSIONS[version]
    ours = SwitchBackbone(
        activation=activation, gated=gated, tie_embedding_weights=tied, seed=0, **SIZES
    )
    theirs = keras_hub.models.T5Backbone(
        activation=gelu_approximate if gated else activation,
        use_gated_activation=gated,
        tie_embedding_weights=tied,
        **SIZES,
    )
    random = np.random.default_rng(0)
    names = variables(theirs)
    for name, weight in ours.named_weights().items():
        sizes = {1: (1.0, 0.2), 2: (0.0, weight.shape[0] ** -0.5)}[len(weight.shape)]
        weight.assign(random.normal(*sizes, weight.shape).astype("float32"))
        names[name].assign(weight)
    if len(names) != len(ours.weights) or len(names) != len(theirs.weights):
        sys.exit(f"Weights: {len(names)}, {len(ours.weights)}, {len(theirs.weights)}")
    return SwitchSeq2SeqLM(ours), NeverPads(theirs)


def variables(backbone):
    """KerasHub's variables, by our names."""
    found = {"token_embedding": backbone.token_embedding.embeddings}
    if not backbone.tie_embedding_weights:
        found["logits"] = backbone.token_embedding.reverse_embeddings
    for side in ("encoder", "decoder"):
        layers = getattr(backbone, f"{side}_transformer_layers")
        bias = layers[0].self_attention.relative_attention_bias
        norm = getattr(backbone, f"{side}_layer_norm").weight
        found.update({f"{side}/position_bias": bias, f"{side}/norm": norm})
        for number, layer in enumerate(layers):
            parts = of_layer(layer, side == "decoder")
            found.update({f"{side}/{number}/{name}": part for name, part in parts.items()})
    return found


def of_layer(layer, is_decoder):
    parts = {"feed_forward_norm": layer.layer_norm.weight}
    for kind in ("self_attention", "cross_attention")[: 1 + is_decoder]:
        parts[f"{kind}_norm"] = getattr(layer, f"{kind}_layer_norm").weight
        for name in ("query", "key", "value", "output"):
            projector = getattr(getattr(layer, kind), f"{name}_projector")
            parts[f"{kind}/{name}"] = projector.kernel
    parts["feed_forward/output"] = layer.output_projector.kernel
    if layer.use_gated_activation:
        # Their input projector has the activation, which our gate has.
        parts["feed_forward/gate"] = layer.input_projector.kernel
        parts["feed_forward/input"] = layer.gate_projector.kernel
    else:
        parts["feed_forward/input"] = layer.input_projector.kernel
    return parts


def compare(ours, theirs, saved):
    mask = saved["decoder_attention_mask"]
    inputs = models_compare.inputs_of(saved)
    expected = ops.convert_to_numpy(theirs(inputs))
    models_compare.check("logits", models_compare.largest(ours(inputs), expected, mask))
    loss, found = models_compare.loss_gradients(ours, ours.backbone.named_weights(), saved, False)
    args = (theirs, variables(theirs.backbone), saved, False)
    their_loss, their_gradients = models_compare.loss_gradients(*args)
    models_compare.check("cross-entropy", models_compare.largest(loss, their_loss))
    models_compare.check_gradients(found, their_gradients)
    for name in models_compare.SAMPLERS:
        texts = [models_compare.write(model, saved, name) for model in (ours, theirs)]
        words = "{} x {} tokens".format(*texts[0].shape)
        models_compare.check_equal(f"{words} by {name} search", *texts)


if __name__ == "__main__":
    batch = dict(np.load(pathlib.Path(sys.argv[1]) / "t5_1_0.npz"))
    for version in VERSIONS:
        print(f"KerasHub's {version}")
        compare(*build(version), batch)
