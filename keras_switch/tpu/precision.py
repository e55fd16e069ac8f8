"""True float32 on accelerators that round it."""

import keras


def highest_float32():
    """Make float32 matrix products of this process use the full float32 precision.

    The router decides in float32. A TPU does a float32 matrix product in passes over bfloat16 parts
    unless its precision is `highest`, and an NVIDIA GPU rounds it to TensorFloat-32, so that two
    close experts may change places. Products of bfloat16 tensors, the bulk of the work, stay as
    fast as they are. Call it once, before the model is traced.

    Raises:
        ValueError: if the Keras backend is neither TensorFlow nor JAX.

    Example:

    >>> keras_switch.tpu.highest_float32()

    Reference:

    - [Fedus et al., 2021](https://arxiv.org/abs/2101.03961), section 2.4 (selective precision)
    """
    backend = keras.config.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(False)
    elif backend == "jax":
        import jax

        jax.config.update("jax_default_matmul_precision", "highest")
    else:
        raise ValueError(
            "`highest_float32` needs the TensorFlow or the JAX backend. "
            f"Received: keras.config.backend()={backend!r}"
        )
