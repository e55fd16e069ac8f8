"""The dtype that the layers compute in when none is asked for."""

import keras

# A string object of its own: the policy that Keras makes where nobody sets one takes its name from
# `floatx`, and so has this very object, which no name that somebody passes is.
_UNCHOSEN = "".join(["float", "32"])
if keras.config.floatx() == _UNCHOSEN:
    keras.config.set_floatx(_UNCHOSEN)


def default_dtype(dtype=None):
    """Returns `dtype`, or what was chosen globally, or `"mixed_bfloat16"`.

    Computing in bfloat16 with float32 variables is this library's default where nobody chose.
    `keras.config.set_dtype_policy` and `keras.config.set_floatx` are choices, also of float32.
    A global policy that Keras had before it imported `keras_switch` counts as one.

    Args:
        dtype: string, `keras.DTypePolicy` or `None`. What the user asked for.

    Returns:
        A dtype or policy for the `dtype` argument of `keras.layers.Layer`.

    Raises:
        ValueError: If `floatx` is bfloat16 on the JAX backend.
    """
    if keras.config.backend() == "jax" and keras.config.floatx() == "bfloat16":
        raise ValueError(
            "On JAX a `floatx` of bfloat16 makes Keras turn integers into floats, which no layer "
            "of experts can work with. Leave it, and compute in bfloat16 by "
            '`dtype="bfloat16"` or `keras.config.set_dtype_policy("bfloat16")`. '
            "Received: keras.config.floatx()='bfloat16'"
        )
    if dtype is not None:
        return dtype
    policy = keras.config.dtype_policy()
    if policy.name is not _UNCHOSEN:
        return policy
    floatx = keras.config.floatx()
    return "mixed_bfloat16" if floatx is _UNCHOSEN else floatx


def stream_policy(policy):
    """Returns the policy of T5's residual stream, of what adds to it and of its norms.

    In released models the stream passes 65,504, the largest float16, and so do the products of
    the feed-forwards that add to it. So all of these are float32 where the rest is float16.

    Args:
        policy: `keras.DTypePolicy` of a block or model, or its name.

    Returns:
        The same, or `"float32"`.
    """
    return "float32" if keras.dtype_policies.get(policy).compute_dtype == "float16" else policy


def at_least_float32(dtype):
    """What routers, softmaxes and losses of a layer compute in: float32, or float64 for float64.

    Args:
        dtype: dtype or `keras.DTypePolicy`.

    Returns:
        string.
    """
    return keras.backend.result_type(keras.dtype_policies.get(dtype).compute_dtype, "float32")
