"""Layers that `keras.RematScope` computes again as pure functions.

Keras would run the whole call again: on TensorFlow that draws other noise, loses the gradients of
losses and counts steps twice, and on JAX it leaks tracers.
"""

import itertools

import keras
from keras import ops

from keras_switch.private.keras import AutocastScope


class Rematerialized:
    """Makes a Keras layer of a `keras.RematScope` a pure function of its variables and inputs.

    Its parts are not rematerialized once more.
    """

    def rematerialized_call(self, layer_call, *args, **kwargs):
        if super().rematerialized_call(layer_call, *args, **kwargs) is layer_call:
            return layer_call
        return lambda *args, **kwargs: _pure_call(self, layer_call, args, kwargs)


def without_remat():
    """A context whose layers are rematerialized with the layer that they are part of."""
    return keras.RematScope(mode=None)


def _pure_call(layer, call, args, kwargs):
    trainable, saved = layer.trainable_variables, {id(weight) for weight in layer.weights}
    # What a call changes: seeds and sums. Frozen weights are constants.
    others = [variable for variable in layer.variables if id(variable) not in saved]
    with AutocastScope(None):
        state = [ops.copy(variable) for variable in others]
    leaves = keras.tree.flatten((args, kwargs))
    # Only what may have a gradient is an argument.
    places = [place for place, leaf in enumerate(leaves) if _is_float(leaf)]
    structure = []

    def pure(weights, floats):
        inputs = list(leaves)
        for place, leaf in zip(places, floats, strict=True):
            inputs[place] = leaf
        args_, kwargs_ = keras.tree.pack_sequence_as((args, kwargs), inputs)
        mapping = zip([*trainable, *others], [*weights, *state], strict=True)
        dtype = layer.compute_dtype if layer.autocast else None
        with keras.StatelessScope(list(mapping), collect_losses=True) as scope:
            with AutocastScope(dtype):
                outputs = call(*args_, **kwargs_)
        results = keras.tree.flatten(outputs), scope.losses
        structure[:] = [outputs, *map(len, results)]
        return [*itertools.chain(*results), *map(scope.get_current_value, others)]

    weights = [ops.copy(variable) for variable in trainable]
    results = iter(keras.remat(pure)(weights, [leaves[place] for place in places]))
    outputs, num_outputs, num_losses = structure
    flat = list(itertools.islice(results, num_outputs))
    for loss in itertools.islice(results, num_losses):
        layer.add_loss(loss)
    for variable, value in zip(others, results, strict=True):
        variable.assign(value)
    return keras.tree.pack_sequence_as(outputs, flat)


def _is_float(leaf):
    return ops.is_tensor(leaf) and keras.backend.is_float_dtype(
        keras.backend.standardize_dtype(leaf.dtype)
    )
