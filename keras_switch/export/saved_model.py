"""SavedModels of any Keras model with Switch layers."""

import os
import pathlib
import shutil

import keras
import tensorflow as tf

from keras_switch.layers import dropless

VERSION = "1"


def export_saved_model(model, path):
    """Exports a functional model as a SavedModel whose experts drop no token.

    An answer then does not depend on the other rows of its batch. Dimensions of size
    `None` stay unknown.

    Args:
        model: `keras.Model`, functional or `Sequential`.
        path: Path of the directory of versions. Version 1 is written, whole or not at
            all, in the place of what was there.

    Returns:
        Path of the version.

    Raises:
        ValueError: If the model has no known inputs.
    """
    if not isinstance(model, keras.Model) or not model.built or not getattr(model, "inputs", None):
        raise ValueError(
            "`model` must be a built functional or Sequential model. "
            f"Received: model={model!r} of type {type(model)}"
        )
    signature = tf.nest.map_structure(
        lambda x: tf.TensorSpec(x.shape, x.dtype, name=x.name), model.input
    )
    return write(model, lambda inputs: model(inputs, training=False), [signature], path)


def write(model, function, signature, path, resources=()):
    """Writes a function that uses a model's variables as a SavedModel's version 1.

    `ExportArchive` makes the variables loadable outside Python too, where
    `tf.saved_model.save` of a Keras 3 model does not.
    """
    path = pathlib.Path(path)
    beside = path.with_name(f".{path.name}.tmp")
    old = path.with_name(f".{path.name}.old.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in (beside, old):
        shutil.rmtree(leftover, ignore_errors=True)
    archive = keras.export.ExportArchive()
    archive.track(model)
    for resource in resources:
        archive.track(resource)

    def serve(*inputs):
        # The archive traces later, so the scope is entered in the trace.
        with dropless():
            return function(*inputs)

    archive.add_endpoint("serving_default", serve, input_signature=signature)
    archive.write_out(beside / VERSION, verbose=False)
    if path.exists():
        os.replace(path, old)
    os.replace(beside, path)
    shutil.rmtree(old, ignore_errors=True)
    return path / VERSION
