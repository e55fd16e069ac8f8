"""Gradients of a scalar on either backend."""

import keras
import numpy as np


def gradients(function, arrays):
    """Returns the value of `function(*tensors)` and its gradients as numpy arrays."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tensors = [tf.convert_to_tensor(array) for array in arrays]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = function(*tensors)
        results = tape.gradient(value, tensors, unconnected_gradients="zero")
        results = [tf.convert_to_tensor(result) for result in results]
    else:
        import jax

        value, results = jax.value_and_grad(function, tuple(range(len(arrays))))(*arrays)
    return np.asarray(value), [np.asarray(result) for result in results]


def layer_gradients(layer, function, inputs):
    """Gradients of `function(inputs)` by the layer's trainable weights, and by `inputs`."""
    weights = layer.trainable_variables

    def by_value(*values):
        with keras.StatelessScope(state_mapping=list(zip(weights, values[1:]))):
            return function(values[0])

    arrays = [inputs, *(np.asarray(weight) for weight in weights)]
    return gradients(by_value, arrays)
