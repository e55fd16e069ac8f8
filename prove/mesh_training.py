"""Trains a small model whose experts are split; the same command again resumes the run.

    python prove/mesh_training.py DIRECTORY SHAPE LAYOUT

When it ends, `DIRECTORY/result.json` has the history and the final weights.
"""

import json
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

import keras_switch.tpu
from keras_switch.layers import SwitchDense
from keras_switch.training import checkpoint

EPOCHS, STEPS, EVERY = 3, 6, 2


def build():
    inputs = keras.Input((4, 8))
    kwargs = {"intermediate_dim": 64, "num_groups": 8, "expert_dropout": 0.1, "dtype": "float32"}
    x = keras.layers.Add()([inputs, SwitchDense(8, **kwargs, seed=0)(inputs)])
    outputs = keras.layers.Dense(3, kernel_initializer=keras.initializers.GlorotUniform(1))(x)
    return keras.Model(inputs, outputs)


def batches(first):
    """Batches of an endless stream from a number on."""
    x = np.random.default_rng(0).normal(size=(160, 4, 8)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((x, np.tanh(x[..., :3])))
    return data.repeat().batch(16, drop_remainder=True).skip(first)


def main(directory, shape, layout):
    keras_switch.tpu.connect(cores=8)
    mesh = keras_switch.tpu.Mesh(shape, layout)
    with mesh.scope():
        model = build()
        model.compile(mesh.optimizer(keras.optimizers.Adam(1e-2, global_clipnorm=0.1)), "mse")
    directory = pathlib.Path(directory)
    newest = checkpoint.latest(directory / "checkpoints")
    state = checkpoint.restore(model, newest) if newest else checkpoint.TrainingState()
    print(f"from step {state.step}", flush=True)
    saver = checkpoint.Checkpoint(directory / "checkpoints", every=EVERY, state=state)

    def fit(epochs, steps):
        model.fit(
            batches(state.step),
            initial_epoch=state.epoch,
            epochs=epochs,
            steps_per_epoch=steps,
            shuffle=False,
            callbacks=[saver],
            verbose=0,
        )

    if state.epoch_step:
        fit(state.epoch + 1, STEPS - state.epoch_step)
    if state.epoch < EPOCHS:
        fit(EPOCHS, STEPS)
    result = {"history": state.history, "weights": [x.tolist() for x in model.get_weights()]}
    (directory / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
