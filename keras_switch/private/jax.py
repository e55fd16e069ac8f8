"""Private names of Keras's JAX backend."""

# Its `distribute_data_input` places each batch where the first one lay: see `REPLACED`.
# Since Keras 3.7.
from keras.src.backend.jax import distribution_lib

__all__ = ["distribution_lib"]
