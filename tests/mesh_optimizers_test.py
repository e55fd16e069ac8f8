"""Optimizers on a mesh of the TensorFlow backend: a step is what it is on one core."""

import unittest

import keras
import numpy as np
from keras import optimizers
from mesh_helpers import IS_TENSORFLOW
from mesh_helpers import ONE_CORE
from mesh_helpers import X
from mesh_helpers import Y
from mesh_helpers import assert_same
from mesh_helpers import compiled
from mesh_helpers import fit
from mesh_helpers import mesh_of
from mesh_helpers import model
from mesh_helpers import values

from keras_switch.layers import parallelism
from keras_switch.training import Adafactor

if IS_TENSORFLOW:
    import tensorflow as tf

    from keras_switch.tpu.tensorflow.optimizers import ELEMENTWISE

STEPS = 5
SHAPES = (8, 4, 6), (4, 5), (5,)
MOMENTUM = {"learning_rate": 0.1, "momentum": 0.9}
OPTIONS = (
    {"clipnorm": 0.5},
    {"global_clipnorm": 0.5},
    {"clipvalue": 0.1},
    {"weight_decay": 0.1},
    {"use_ema": True, "ema_momentum": 0.5},
    {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 2},
    {"gradient_accumulation_steps": 2},
    {"gradient_accumulation_steps": 2, "global_clipnorm": 0.5, "weight_decay": 0.1},
    {"gradient_accumulation_steps": 2, "use_ema": True, "ema_overwrite_frequency": 2},
    {"loss_scale_factor": 128.0, "clipnorm": 0.5},
)
REFUSED = optimizers.Adafactor, optimizers.Muon, optimizers.ScheduleFreeAdamW


def cases():
    """Makers of optimizers by name."""
    makers = {kind.__name__: lambda kind=kind: kind(1e-2) for kind in ELEMENTWISE}
    for options in OPTIONS:
        makers[f"SGD {options}"] = lambda options=options: optimizers.SGD(**MOMENTUM, **options)
    schedule = {"initial_learning_rate": 0.1, "decay_steps": STEPS}
    return makers | {
        "Adam amsgrad": lambda: optimizers.Adam(1e-2, amsgrad=True, clipnorm=0.5),
        "Nadam accumulating": lambda: optimizers.Nadam(1e-2, gradient_accumulation_steps=2),
        "SGD schedule": lambda: optimizers.SGD(optimizers.schedules.CosineDecay(**schedule)),
        "Lamb": lambda: optimizers.Lamb(1e-2),
        "Lamb accumulating": lambda: optimizers.Lamb(1e-2, gradient_accumulation_steps=2),
        "Adafactor": lambda: Adafactor(min_dim_size_to_factor=4),
        "Adafactor whole": lambda: Adafactor(1e-2, beta_1=0.9, global_clipnorm=0.5, use_ema=True),
        "LossScale": lambda: optimizers.LossScaleOptimizer(
            optimizers.Adam(1e-2, global_clipnorm=0.5), initial_scale=64.0, dynamic_growth_steps=2
        ),
        "LossScale Lamb": lambda: optimizers.LossScaleOptimizer(optimizers.Lamb(1e-2)),
    }


class Three(keras.layers.Layer):
    """A weight that is split along two axes, a matrix and a vector."""

    def build(self, shape=None):
        add_split = parallelism.active().add_weight
        dimensions = ("experts", None, "expert_hidden")
        start = [keras.initializers.GlorotUniform(i) for i in range(3)]
        self.split = add_split(self, dimensions, name="a", shape=SHAPES[0], initializer=start[0])
        self.matrix = self.add_weight(name="b", shape=SHAPES[1], initializer=start[1])
        self.vector = self.add_weight(name="c", shape=SHAPES[2], initializer=start[2])

    @property
    def in_order(self):
        return [self.split, self.matrix, self.vector]


def made(mesh, makers):
    """Pairs of three weights and a built optimizer, on a mesh."""
    pairs = []
    with mesh.scope():
        for make in makers:
            weights = Three()
            weights.build()
            optimizer = mesh.optimizer(make())
            optimizer.build(weights.in_order)
            pairs.append((weights.in_order, optimizer))
    return pairs


def train(makers, gradients):
    """Takes the same steps on one core and on 2 x 2.

    Args:
        makers: List of callables that make an optimizer.
        gradients: For each step, for each of four cores, the gradients of the core's slices.

    Returns:
        The pairs of `made` on one core, and those on the mesh.
    """
    mesh = mesh_of("2x2")
    ours, theirs = made(mesh, makers), made(mesh_of(ONE_CORE), makers)
    with mesh.scope():
        strategy = tf.distribute.get_strategy()

    @tf.function
    def step(gradients):
        def on_a_core(gradients):
            for weights, optimizer in ours:
                optimizer.apply(gradients, weights)

        strategy.run(on_a_core, args=(gradients,))

    places = ours[0][0][0].split.slices(SHAPES[0])
    for of_cores in gradients:
        step(
            strategy.experimental_distribute_values_from_function(
                lambda context, of_cores=of_cores: [
                    tf.constant(x) for x in of_cores[context.replica_id_in_sync_group]
                ]
            )
        )
        whole = [np.zeros(shape, "float32") for shape in SHAPES]
        for place, (part, *others) in zip(places, of_cores):
            whole[0][place] += part
            for total, other in zip(whole[1:], others):
                total += other
        for weights, optimizer in theirs:
            optimizer.apply([tf.constant(x) for x in whole], weights)
    return theirs, ours


def some_gradients():
    rng = np.random.default_rng(0)
    shapes = ((4, 4, 3), *SHAPES[1:])
    return [
        [[rng.normal(size=shape).astype("float32") for shape in shapes] for _ in range(4)]
        for _ in range(STEPS)
    ]


def of(pair):
    weights, optimizer = pair
    return values(weights), values(optimizer.variables)


@unittest.skipUnless(IS_TENSORFLOW, "of the TensorFlow backend")
class MeshOptimizersTest(unittest.TestCase):
    def test_steps_equal_those_of_one_core(self):
        makers = cases()
        for name, *pairs in zip(makers, *train(list(makers.values()), some_gradients())):
            with self.subTest(name):
                expected, got = map(of, pairs)
                assert_same(got, expected, atol=1e-5)
                for weights, optimizer in pairs:
                    optimizer.finalize_variable_values(weights)
                assert_same(of(pairs[1])[0], of(pairs[0])[0])
                start = Three()
                start.build()
                moved = [np.abs(x - y).max() for x, y in zip(expected[0].values(), start.weights)]
                self.assertGreater(min(moved), 1e-6)

    def test_an_infinity_on_one_core_skips_the_step_on_all(self):
        gradients = some_gradients()[:2]
        gradients[1][2][0][0, 0, 0] = np.inf
        makers = [lambda: optimizers.LossScaleOptimizer(optimizers.Adam(1e-2), initial_scale=64.0)]
        (expected,), (got,) = train(makers, gradients)
        assert_same(of(got), of(expected))
        self.assertEqual(keras.ops.convert_to_numpy(got[1].dynamic_scale.value), 32.0)
        (after_one,), _ = train(makers, gradients[:1])
        assert_same(of(got)[0], of(after_one)[0])

    def test_everything_at_once_in_fit(self):
        def make():
            return optimizers.LossScaleOptimizer(
                optimizers.AdamW(
                    optimizers.schedules.PiecewiseConstantDecay([3], [1e-2, 1e-3]),
                    global_clipnorm=0.01,
                    use_ema=True,
                    ema_overwrite_frequency=4,
                    gradient_accumulation_steps=2,
                )
            )

        assert_same(*(fit(compiled(name, make)) for name in ("4x2", ONE_CORE)))

    def test_what_cannot_step_on_slices_is_refused_by_name(self):
        class Mine(optimizers.SGD):
            def update_step(self, gradient, variable, learning_rate):
                self.assign(variable, keras.ops.mean(gradient) * variable)

        mesh = mesh_of("2")
        outside = optimizers.Adam()
        with mesh.scope():
            for kind in REFUSED + (Mine,):
                for refused in (kind(), optimizers.LossScaleOptimizer(kind())):
                    pattern = f"`{kind.__name__}` may need .* Adam, "
                    with self.assertRaisesRegex(ValueError, pattern):
                        mesh.optimizer(refused)
            built = optimizers.Adam()
            built.build([keras.Variable([1.0])])
            with self.assertRaisesRegex(ValueError, "not trained yet.*built: adam"):
                mesh.optimizer(built)
            with self.assertRaisesRegex(ValueError, r"`with mesh.scope\(\)`.*Received: adam"):
                mesh.optimizer(outside)
            with self.assertRaisesRegex(ValueError, "optimizer object.*Received: 'adam'"):
                mesh.optimizer("adam")
            twice = mesh.optimizer(optimizers.Adam())
            self.assertIs(mesh.optimizer(twice), twice)

    def test_forgetting_the_wrapper_is_an_error(self):
        mesh = mesh_of("2")
        makers = (
            optimizers.SGD,
            optimizers.Adam,
            lambda: optimizers.LossScaleOptimizer(optimizers.Adam()),
            lambda: optimizers.LossScaleOptimizer(mesh.optimizer(optimizers.Adam())),
            lambda: "rmsprop",
        )
        for make in makers:
            with mesh.scope():
                forgetful = model()
                forgetful.compile(make(), "mse")
            before = forgetful.get_weights()
            with self.assertRaisesRegex(ValueError, "is split over .*mesh.optimizer"):
                forgetful.fit(X, Y, batch_size=16, verbose=0)
            assert_same(forgetful.get_weights(), before, 0, 0)

    def test_forgetting_it_in_a_loop_of_ones_own_is_an_error_too(self):
        mesh = mesh_of("2")
        with mesh.scope():
            trained = model()
            optimizer = optimizers.SGD(0.1)
        strategy = trained.distribute_strategy

        @tf.function
        def step(x):
            def on_a_core(x):
                with tf.GradientTape() as tape:
                    loss = tf.reduce_sum(trained(x))
                weights = trained.trainable_variables
                optimizer.apply(tape.gradient(loss, weights), weights)

            strategy.run(on_a_core, args=(x,))

        with self.assertRaisesRegex(ValueError, "mesh.optimizer"):
            step(tf.constant(X[:8]))

    def test_gradients_outside_a_replica_are_an_error(self):
        split = compiled("2")
        with self.assertRaisesRegex(ValueError, "inside a replica only.*switch/kernel_in"):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(split(X[:8]))
            tape.gradient(loss, split.trainable_variables)
        with self.assertRaisesRegex(ValueError, "inside a replica.*built=True"):
            split.optimizer.build(split.trainable_variables)
            with split.distribute_strategy.scope():
                split.optimizer.apply([0.0 * x.value for x in split.trainable_variables])


if __name__ == "__main__":
    unittest.main()
