"""Activations by name: Keras's, and T5 1.1's."""

import keras


@keras.saving.register_keras_serializable(package="keras_switch")
def gelu_approximate(x):
    """The tanh approximation of GELU, which T5 1.1 has."""
    return keras.activations.gelu(x, approximate=True)


def get(identifier):
    """Returns a Keras activation, or `gelu_approximate` by its name."""
    if identifier == "gelu_approximate":
        return gelu_approximate
    return keras.activations.get(identifier)
