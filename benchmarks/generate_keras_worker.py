"""Times `generate` of `SwitchSeq2SeqLM`. A worker of `generate.py`."""

import importlib.metadata
import time

import keras
import numpy as np
import worker

from keras_switch.models import SwitchSeq2SeqLM

MODELS = {}


def versions():
    return {name: importlib.metadata.version(name) for name in ("tensorflow", "keras")}


def prepare(place, num_experts, num_layers, jit_compile, *sizes):
    """Puts a model in a place of `MODELS` and generates; returns its number of parameters."""
    MODELS.pop(place, None)  # Two at once would need twice the memory.
    keras.utils.set_random_seed(0)
    kwargs = {"num_experts": num_experts, "num_layers": num_layers, "dtype": "float32"}
    model = SwitchSeq2SeqLM.from_preset("switch_base_8", load_weights=False, **kwargs)
    model.compile(sampler="greedy", jit_compile=jit_compile)
    MODELS[place] = model
    seconds(place, *sizes)
    return sum(weight.shape.num_elements() for weight in model.weights)


def seconds(place, batch, encoder_length, new_tokens):
    """How long it takes to write so many tokens after each of so many texts."""
    ids = np.arange(batch * encoder_length, dtype="int32").reshape(batch, -1) % 30000 + 2
    written = np.zeros((batch, 1 + new_tokens), "int32")
    inputs = {
        "encoder_token_ids": ids,
        "encoder_padding_mask": np.ones_like(ids),
        "decoder_token_ids": written,
        "decoder_padding_mask": np.arange(1 + new_tokens) == written,
    }
    start = time.perf_counter()
    outputs = MODELS[place].generate(inputs, stop_token_ids=None)
    np.asarray(outputs["decoder_token_ids"])
    return time.perf_counter() - start


if __name__ == "__main__":
    worker.answer({function.__name__: function for function in (versions, prepare, seconds)})
