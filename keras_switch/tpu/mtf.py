"""Mesh TensorFlow, imported on a TensorFlow that it was not written for."""

import contextlib
import functools
import types


@contextlib.contextmanager
def _lent(owner, name, value):
    """Sets an attribute of a module inside the `with` block and puts back what was there."""
    missing = object()
    before = getattr(owner, name, missing)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is missing:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


@functools.cache
def mesh_tensorflow():
    """Returns the module `mesh_tensorflow`, imported when it is first asked for.

    It looks for TensorFlow's estimators, which are gone, and for a function at its former place:
    both are lent during the import, and TensorFlow is as before right after it.

    Raises:
        ImportError: if mesh-tensorflow, or something that it needs, is not installed.
    """
    import tensorflow as tf
    import tensorflow.compat.v1 as tf1

    from keras_switch.private.tensorflow import framework_ops

    estimator = types.SimpleNamespace(SessionRunHook=object, CheckpointSaverListener=object)
    register = tf.register_tensor_conversion_function
    try:
        with (
            _lent(tf1, "estimator", estimator),
            _lent(framework_ops, "register_tensor_conversion_function", register),
        ):
            import mesh_tensorflow
    except ModuleNotFoundError as error:
        raise ImportError(
            "A mesh and its layout are read by Mesh TensorFlow. "
            f"Install it: pip install 'mesh-tensorflow>=0.1.21'. Received: {error}"
        ) from error
    return mesh_tensorflow
