"""Models of every layer, and of every model, whose exports are run without Keras."""

import contextlib

import keras
import lm_helpers
import numpy as np
import tensorflow as tf
from keras import ops

from keras_switch import export
from keras_switch.layers import RelativePositionBias
from keras_switch.layers import SwitchDense
from keras_switch.layers import SwitchTransformerBlock
from keras_switch.layers import dropless
from keras_switch.models import SwitchTextClassifier

DIM = 8
# Of the largest output.
TOLERANCE = 1e-5
# The shape of a model's inputs, and those of what a file is called with.
SIZES = {"known": ((3, 7), ((3, 7),)), "unknown": ((None, None), ((3, 7), (2, 5)))}


def _dense(**kwargs):
    """Few slots, and a router that decides clearly: some tokens find no room."""
    return SwitchDense(
        4,
        16,
        router_initializer=keras.initializers.RandomNormal(0, 1, seed=1),
        min_capacity=1,
        eval_capacity_factor=1.25,
        seed=1,
        **{"dtype": "float32"} | kwargs,
    )


def _block(num_experts=4, **kwargs):
    if num_experts:
        kwargs["switch"] = {"min_capacity": 1, "eval_capacity_factor": 1.25}
    return SwitchTransformerBlock(2, 16, num_experts, seed=1, dtype="float32", **kwargs)


def _of_tokens(layer):
    def make(shape):
        inputs = keras.Input(batch_shape=(*shape, DIM), name="x")
        return keras.Model(inputs, layer()(inputs))

    return make


def _masked_dense(shape):
    inputs = keras.Input(batch_shape=(*shape, DIM), name="x")
    mask = keras.Input(batch_shape=shape, dtype="bool", name="mask")
    return keras.Model({"x": inputs, "mask": mask}, _dense()(inputs, mask=mask))


def _embedded_dense(shape):
    ids = keras.Input(batch_shape=shape, dtype="int32", name="ids")
    x = keras.layers.Embedding(30, DIM, mask_zero=True)(ids)
    return keras.Model(ids, _dense()(x))


def _masked_block(shape):
    inputs = keras.Input(batch_shape=(*shape, DIM), name="x")
    mask = keras.Input(batch_shape=shape, dtype="int32", name="mask")
    return keras.Model({"x": inputs, "mask": mask}, _block()(inputs, padding_mask=mask != 0))


def _crossing_block(shape):
    length = shape[1] and shape[1] + 2
    inputs = keras.Input(batch_shape=(*shape, DIM), name="x")
    encoded = keras.Input(batch_shape=(shape[0], length, DIM), name="encoded")
    outputs = _block(causal=True, cross_attention=True)(inputs, encoded)
    return keras.Model({"x": inputs, "encoded": encoded}, outputs)


def _language_model():
    switch = {"min_capacity": 1, "eval_capacity_factor": 1.25}
    return lm_helpers.make(switch=switch)


def _of_ids(model):
    def make(shape):
        whole = model()
        if None in shape:
            return whole
        inputs = {
            x.name: keras.Input(batch_shape=shape, dtype=x.dtype, name=x.name) for x in whole.inputs
        }
        return keras.Model(inputs, whole(inputs))

    return make


CASES = {
    "`SwitchDense`": _of_tokens(_dense),
    "`SwitchDense`, likelier tokens first": _of_tokens(lambda: _dense(priority="probability")),
    "`SwitchDense`, reroute": _of_tokens(lambda: _dense(overflow="reroute")),
    "`SwitchDense`, dropless": _of_tokens(lambda: _dense(overflow="dropless")),
    "`SwitchDense`, top 2": _of_tokens(lambda: _dense(num_selected_experts=2)),
    "`SwitchDense`, gated": _of_tokens(lambda: _dense(gated=True)),
    "`SwitchDense`, a group a row": _of_tokens(lambda: _dense(group_size="row")),
    "`SwitchDense`, two groups": _of_tokens(lambda: _dense(num_groups=2)),
    "`SwitchDense`, mask": _masked_dense,
    "`SwitchDense`, mask of an embedding": _embedded_dense,
    "`SwitchTransformerBlock`, dense": _of_tokens(lambda: _block(None)),
    "`SwitchTransformerBlock`": _of_tokens(_block),
    "`SwitchTransformerBlock`, mask": _masked_block,
    "`SwitchTransformerBlock`, causal": _of_tokens(lambda: _block(causal=True)),
    "`SwitchTransformerBlock`, cross-attention": _crossing_block,
    "`SwitchTransformerBlock`, expert attention": _of_tokens(lambda: _block(expert_attention=True)),
    "`RelativePositionBias`": _of_tokens(lambda: RelativePositionBias(2, 8, 16)),
    "`SwitchBackbone`": _of_ids(lambda: _language_model().backbone),
    "`SwitchSeq2SeqLM`": _of_ids(_language_model),
    "`SwitchTextClassifier`": _of_ids(lambda: SwitchTextClassifier(_language_model().backbone, 3)),
}


def inputs_of(model, shape, seed=0):
    """Arrays for the model's inputs, by their names."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for x in model.inputs:
        size = [*shape[:1], shape[1] + 2 * (x.name == "encoded"), *x.shape[2:]]
        real = rng.integers(0, 4, size) > 0
        if x.name in ("ids", "encoder_token_ids", "decoder_token_ids"):
            arrays[x.name] = rng.integers(2, 30, size) * real
        elif "mask" in x.name:
            # Whoever has no real token has no answer.
            real[:, 0] = True
            arrays[x.name] = real
        else:
            arrays[x.name] = rng.normal(size=size)
            # Ties: a token of zeros likes all experts alike.
            arrays[x.name][:, 1] = 0
        arrays[x.name] = arrays[x.name].astype(x.dtype)
    return arrays


def by_name(names, arrays):
    """A file's names of the inputs, and their arrays."""
    if len(arrays) == 1:
        return dict(zip(names, arrays.values(), strict=True))
    plain = {x.split(":")[0].removeprefix("serving_default_"): x for x in names}
    return {name: arrays[x] for x, name in plain.items()}


def run_session(path, arrays):
    """Runs a SavedModel in a session, as TensorFlow Serving does."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(path))
        signature = meta.signature_def["serving_default"]
        feed = by_name(list(signature.inputs), arrays)
        feed = {signature.inputs[name].name: array for name, array in feed.items()}
        outputs = [x.name for _, x in sorted(signature.outputs.items())]
        return session.run(outputs, feed)


def keras_format(format, name, run):
    """How `model.export` writes a format, how a file of it is run, and the scope it equals."""

    def write(model, sizes, folder):
        kwargs = {}
        if sizes == "known":
            # Keras takes the batch for unknown otherwise.
            kwargs["input_signature"] = [
                keras.tree.map_structure(
                    lambda x: keras.InputSpec(shape=x.shape, dtype=x.dtype, name=x.name),
                    model.input,
                )
            ]
        model.export(str(folder / name), format=format, verbose=False, **kwargs)
        return folder / name

    return write, run, contextlib.nullcontext


def _write_ours(model, sizes, folder):
    return export.export_saved_model(model, folder / "versions")


SAVED_MODELS = {
    "keras_switch.export": (_write_ours, run_session, dropless),
    "tf_saved_model": keras_format("tf_saved_model", "model", run_session),
}


def largest_error(name, sizes, format, folder):
    """Largest difference of a file's outputs from the model's, over the largest output."""
    write, run, scope = format
    shape, calls = SIZES[sizes]
    model = CASES[name](shape)
    calls = [inputs_of(model, call, seed) for seed, call in enumerate(calls)]
    expected = [_outputs(model, arrays, scope) for arrays in calls]
    path = write(model, sizes, folder)
    errors = []
    for arrays, right in zip(calls, expected, strict=True):
        received = run(path, arrays)
        if sorted(x.shape for x in received) != sorted(x.shape for x in right):
            raise ValueError(f"Outputs of other shapes: {[x.shape for x in received]}")
        # Runtimes order several outputs in their own ways.
        errors += [min(_error(x, y) for y in received if x.shape == y.shape) for x in right]
    return max(errors)


def _outputs(model, arrays, scope):
    inputs = {name: ops.convert_to_tensor(array) for name, array in arrays.items()}
    with scope():
        outputs = model(inputs if isinstance(model.input, dict) else next(iter(inputs.values())))
    return [ops.convert_to_numpy(x) for x in keras.tree.flatten(outputs)]


def _error(right, received):
    return np.abs(right - received).max() / np.abs(right).max()
