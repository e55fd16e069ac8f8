"""Batches whose rows do not divide over the replicas of TensorFlow: evaluated as on one core."""

import functools
import unittest

import keras
import mesh_helpers
import model_helpers
import numpy as np
from mesh_helpers import IS_TENSORFLOW
from mesh_helpers import ONE_CORE
from mesh_helpers import X
from mesh_helpers import Y
from mesh_helpers import assert_same
from mesh_helpers import compiled
from mesh_helpers import dense
from mesh_helpers import fit
from mesh_helpers import mesh_of
from mesh_helpers import switch

if IS_TENSORFLOW:
    import tensorflow as tf

WEIGHT = np.linspace(0.5, 2, len(X), dtype="float32")[:, None]
# Capacity binds: a token's output depends on the others of its group.
TIGHT = {"eval_capacity_factor": 0.5, "min_capacity": 1}


def every_grouping():
    inputs = keras.Input(mesh_helpers.SHAPE)
    x = dense(6, 1)(keras.layers.Masking()(inputs))
    groupings = ({"group_size": "row"}, {"group_size": 5}, {"overflow": "dropless"})
    for seed, kwargs in enumerate(groupings):
        kwargs = {"num_groups": None if "group_size" in kwargs else 8, **TIGHT, **kwargs}
        x = keras.layers.Add()([x, switch(seed=seed, **kwargs)(x)])
    return keras.Model(inputs, dense(3, 2)(x))


def with_metrics(name, build=functools.partial(mesh_helpers.model, **TIGHT), metric=None):
    model = compiled(name, build=build)
    weighted = ["mae" if metric is None else metric]
    model.compile(model.optimizer, "mse", metrics=["mse"], weighted_metrics=weighted)
    return model


def evaluated(model, rows, batch_size=16):
    x, y, weight = X[:rows].copy(), Y[:rows], WEIGHT[:rows]
    x[::3, 2:] = 0  # Padding, where a layer looks for it.
    return [
        model.predict(x, batch_size=batch_size, verbose=0),
        np.array(model.evaluate(x, y, batch_size, 0, weight)),
    ]


@functools.cache
def alone():
    return with_metrics(ONE_CORE)


@unittest.skipUnless(IS_TENSORFLOW, "of the TensorFlow backend")
class MeshUnevenTest(unittest.TestCase):
    def test_any_number_of_rows(self):
        for name, numbers in (("4", (1, 9, 23)), ("2x2", (3,))):
            split = with_metrics(name)
            for rows in numbers:
                with self.subTest(name=name, rows=rows):
                    assert_same(evaluated(split, rows), evaluated(alone(), rows))

    def test_every_way_of_grouping(self):
        split, whole = (with_metrics(name, every_grouping) for name in ("2x2", ONE_CORE))
        assert_same(evaluated(split, 7), evaluated(whole, 7))

    def test_metrics_that_were_made_outside_the_scope(self):
        split = with_metrics("2", metric=keras.metrics.MeanAbsoluteError())
        assert_same(evaluated(split, 19), evaluated(alone(), 19))

    def test_batches_of_datasets_and_several_steps_at_once(self):
        data = tf.data.Dataset.from_tensor_slices((X[:18], Y[:18]))
        split = compiled("2x2")
        split.compile(split.optimizer, "mse", steps_per_execution=2)
        whole = compiled(ONE_CORE)
        for batches in (data.batch(6, drop_remainder=True), data.batch(7)):
            results = [
                [model.predict(batches, verbose=0), model.evaluate(batches, verbose=0)]
                for model in (split, whole)
            ]
            assert_same(*results)

    def test_single_batches(self):
        x, y, weight = X[:3], Y[:3], WEIGHT[:3]
        results = [
            [model.predict_on_batch(x), np.array(model.test_on_batch(x, y, weight))]
            for model in (with_metrics("4"), alone())
        ]
        assert_same(*results)

    def test_validation_of_any_number_of_rows(self):
        validation = {"validation_data": (X[:9], Y[:9]), "validation_batch_size": 8}
        runs = [fit(compiled(x), X[:64], Y[:64], epochs=2, **validation) for x in ("2", ONE_CORE)]
        self.assertIn("val_loss", runs[0].history)
        assert_same(*runs)

    def test_language_models(self):
        x, y, weight = model_helpers.batches(1, 7)
        results = []
        for mesh in (mesh_of("2"), mesh_of(ONE_CORE)):
            with mesh.scope():
                model = model_helpers.shallow()
                model.compile(mesh.optimizer(keras.optimizers.SGD(0.1)), jit_compile=False)
            losses = model.evaluate(x, y, sample_weight=weight, batch_size=8, verbose=0)
            results.append([model.predict(x, batch_size=4, verbose=0), np.array(losses)])
        assert_same(*results)

    def test_training_without_routing_metrics(self):
        build = functools.partial(mesh_helpers.model, routing_metrics=False)
        runs = [fit(compiled(x, build=build), X[:64], Y[:64]) for x in ("2x2", ONE_CORE)]
        self.assertEqual(set(runs[0].history), {"loss"})
        assert_same(*runs)


if __name__ == "__main__":
    unittest.main()
