"""The dtype that the layers compute in when none is asked for."""

import keras


def default_dtype(dtype=None):
    """Returns `dtype`, or the global policy, or `"mixed_bfloat16"`.

    Computing in bfloat16 with float32 variables is this library's default, so
    `"mixed_bfloat16"` stands where the global policy is still Keras's own default,
    float32. Pass `dtype="float32"` to compute in float32.

    Args:
        dtype: string, `keras.DTypePolicy` or `None`. What the user asked for.

    Returns:
        A dtype or policy for the `dtype` argument of `keras.layers.Layer`.
    """
    if dtype is not None:
        return dtype
    policy = keras.config.dtype_policy()
    return "mixed_bfloat16" if policy.name == "float32" else policy
