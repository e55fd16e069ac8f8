"""SavedModels of any Keras model with Switch layers."""

import contextlib
import errno
import logging
import pathlib
import warnings

import keras
import tensorflow as tf

from keras_switch import atomic
from keras_switch.layers import SwitchDense
from keras_switch.layers import dropless


def export_saved_model(model, path):
    """Exports a functional model as a SavedModel whose experts drop no token.

    An answer then does not depend on the other rows of its batch. Dimensions of size
    `None` stay unknown. Experts that choose their tokens, `routing="expert_choice"`, keep
    their capacity: a warning says so unless the layer has `group_size="row"` and, where the
    length is unknown, an `expert_capacity`.

    Args:
        model: `keras.Model`, functional or `Sequential`.
        path: Path of the directory of versions. The next free one, from 1 on, is
            written, whole or not at all.

    Returns:
        Path of the version.

    Raises:
        ValueError: If the model has no known inputs, or the Keras backend is not TensorFlow.
    """
    check_backend()
    if not isinstance(model, keras.Model) or not model.built or not getattr(model, "inputs", None):
        raise ValueError(
            "`model` must be a built functional or Sequential model. "
            f"Received: model={model!r} of type {type(model)}"
        )
    signature = tf.nest.map_structure(
        lambda x: tf.TensorSpec(x.shape, x.dtype, name=x.name), model.input
    )
    return write(model, lambda inputs: model(inputs, training=False), [signature], path)


def check_backend():
    """Requires the TensorFlow backend, whose variables a SavedModel can hold."""
    if keras.config.backend() != "tensorflow":
        raise ValueError(
            "SavedModels need the TensorFlow backend: set KERAS_BACKEND=tensorflow. "
            f"Received: keras.config.backend()={keras.config.backend()!r}"
        )


def write(model, function, signature, path, resources=()):
    """Writes a function that uses a model's variables as the next version in a directory.

    `ExportArchive` makes the variables loadable outside Python too, where
    `tf.saved_model.save` of a Keras 3 model does not. A kill leaves the versions before
    as they were, and no half of a new one.

    Raises:
        OSError: If it cannot be written.
    """
    _warn_of_neighbours(model, tf.nest.flatten(signature))
    path = pathlib.Path(path)
    version = path / str(_next_version(path))
    archive = keras.export.ExportArchive()
    archive.track(model)
    for resource in resources:
        archive.track(resource)

    def serve(*inputs):
        # The archive traces later, so the scope is entered in the trace.
        with dropless():
            return function(*inputs)

    archive.add_endpoint("serving_default", serve, input_signature=signature)
    with atomic.whole(version) as beside, _quiet():
        try:
            archive.write_out(beside, verbose=False)
        except tf.errors.OpError as error:
            # TensorFlow says "FILE; REASON [Op:NAME]".
            reason = error.message.splitlines()[0].rpartition("; ")[2].partition(" [Op:")[0]
            raise OSError(errno.EIO, reason, str(version)) from error
    return version


def _warn_of_neighbours(model, signature):
    """Says where an answer depends on the other rows of its batch, or on their length."""
    lengths_vary = any(x.dtype == tf.string or None in x.shape[1:] for x in signature)
    for layer in model._flatten_layers():
        if not isinstance(layer, SwitchDense) or layer.algorithm.is_token_wise:
            continue
        if layer.group_size != "row" or (lengths_vary and layer.expert_capacity is None):
            warnings.warn(
                "An answer of the exported model depends on the rows that share its batch: "
                f"`{layer.path}` has `routing={layer.routing!r}`, whose experts keep their "
                'capacity. Make the layer with `group_size="row"`, and with `expert_capacity` '
                "where the length is unknown.",
                stacklevel=4,
            )


@contextlib.contextmanager
def _quiet():
    """Keeps TensorFlow from telling the name of a folder that is about to have another one."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _next_version(path):
    """TensorFlow Serving loads the highest number, and reloads only a new one."""
    return 1 + max((int(x.name) for x in path.glob("*") if x.name.isdecimal()), default=0)
