"""The few operations that `keras.ops` lacks, one file per Keras backend.

`tensorflow.py` and `jax.py` have the same functions. `texts.py` has operations on texts, and
`sentinels.py` knows T5's sentinels.
"""

import keras

if keras.backend.backend() == "tensorflow":
    from keras_switch.backend.tensorflow import compiled
    from keras_switch.backend.tensorflow import first_largest
    from keras_switch.backend.tensorflow import gather_rows
    from keras_switch.backend.tensorflow import grouped_matmul
    from keras_switch.backend.tensorflow import larger
    from keras_switch.backend.tensorflow import smaller
    from keras_switch.backend.tensorflow_remat import RematRuns
    from keras_switch.backend.tensorflow_remat import recorded
elif keras.backend.backend() == "jax":
    from keras_switch.backend.jax import compiled
    from keras_switch.backend.jax import first_largest
    from keras_switch.backend.jax import gather_rows
    from keras_switch.backend.jax import grouped_matmul
    from keras_switch.backend.jax import larger
    from keras_switch.backend.jax import smaller
    from keras_switch.backend.jax_remat import RematRuns
    from keras_switch.backend.jax_remat import recorded
else:
    raise ImportError(
        "keras_switch runs on Keras's TensorFlow and JAX backends. Received: "
        f"KERAS_BACKEND={keras.backend.backend()}. Set KERAS_BACKEND=tensorflow or "
        "KERAS_BACKEND=jax before importing keras."
    )

__all__ = [
    "RematRuns",
    "compiled",
    "first_largest",
    "gather_rows",
    "grouped_matmul",
    "larger",
    "recorded",
    "smaller",
]
