"""Meshes on the JAX backend: what devices hold and exchange, what files hold, errors."""

import json
import pathlib
import re
import tempfile
import unittest
import zipfile
from unittest import mock

import jax_mesh_helpers as helpers
import keras
import numpy as np
from jax_mesh_helpers import MESHES
from keras import ops
from switch_helpers import make
from switch_helpers import tokens

from keras_switch.tpu import Mesh

if helpers.IS_JAX:
    import jax

HIDDEN = ("batch:4,model:2", helpers.HIDDEN)
DENSE = ("model:2,batch:4", helpers.DENSE)


def program(model, x, y):
    """The text of the compiled training step."""
    kinds = "trainable_variables", "non_trainable_variables", "metrics_variables"
    state = [[v.value for v in getattr(model, kind)] for kind in kinds]
    state.insert(2, [v.value for v in model.optimizer.variables])
    layout = model.weights[0]._layout.device_mesh.owner.distribution.get_data_layout
    x, y = (jax.device_put(array, layout(array.shape).backend_layout) for array in (x, y))
    return jax.jit(model.train_step).lower(tuple(state), (x, y)).compile().as_text()


def exchanges(text, name):
    """What the collectives of one kind return in a program."""
    return re.findall(rf"= (.*) {name}(?:-start)?\(", text)


def parts(variable):
    """Into how many parts each axis of a variable is split."""
    shape = variable.value.sharding.shard_shape(variable.shape)
    return tuple(whole // part for whole, part in zip(variable.shape, shape))


def config(path):
    """What a file says of a model besides its weights."""
    with zipfile.ZipFile(path) as file:
        return json.loads(file.read("config.json"))


@unittest.skipUnless(helpers.IS_JAX, "JAX only.")
class JaxMeshProgramTest(unittest.TestCase):
    def built(self, mesh):
        with helpers.on(mesh):
            model = helpers.compiled(helpers.transformer(), helpers.cross_entropy())
            model.optimizer.build(model.trainable_variables)
        return model

    def test_a_step_divides_the_batch_and_exchanges_nothing_but_slots(self):
        text = program(self.built(MESHES[0]), *helpers.ids()[:, :16])
        self.assertEqual(len(exchanges(text, "all-to-all")), 4)
        for name in ("all-gather", "collective-permute", "reduce-scatter"):
            self.assertEqual(exchanges(text, name), [])
        self.assertRegex(text, r"s32\[2,6\]\S* parameter")  # Two of the sixteen rows.
        self.assertNotRegex(text, r"\[8,8,16\]|\[8,16,8\]")  # A whole kernel of the experts.

    def test_cores_that_share_dense_layers_hold_the_same_tokens(self):
        text = program(self.built(DENSE), *helpers.ids()[:, :16])
        self.assertEqual(len(exchanges(text, "all-to-all")), 4)
        self.assertRegex(text, r"s32\[4,6\]\S* parameter")  # Four of the sixteen rows.
        self.assertIn("f32[4,6,8]", " ".join(exchanges(text, "all-reduce")))
        gathered = " ".join(exchanges(text, "all-gather"))
        self.assertNotRegex(gathered, r"\[8,8\]|\[8,16\]|\[16,8\]")  # Kernels of dense layers.

    def test_exchanges_have_the_compute_dtype(self):
        layer = helpers.layer_on(HIDDEN, (8, 6, 8), dtype="mixed_bfloat16")
        variables = layer.trainable_variables

        def loss(values, x):
            with keras.StatelessScope(state_mapping=list(zip(variables, values))):
                return ops.sum(layer(x))

        x = jax.ShapeDtypeStruct((8, 6, 8), "float32")
        values = [
            jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=v.value.sharding) for v in variables
        ]
        text = jax.jit(jax.grad(loss, (0, 1))).lower(values, x).as_text()
        for name, count in {"all_to_all": 4, "all_gather": 2}.items():
            dtypes = re.findall(rf'"stablehlo.{name}".*x(\w+)>', text)
            self.assertEqual(dtypes, ["bf16"] * count)

    def test_what_each_core_holds(self):
        model = self.built(DENSE)
        expected = {
            "sparse/feed_forward/kernel_in": (4, 1, 2),
            "sparse/feed_forward/kernel_out": (4, 2, 1),
            "dense/feed_forward/input/kernel": (1, 2),
            "dense/feed_forward/output/kernel": (2, 1),
            "tokens/embeddings": (2, 1),
        }
        for name in ("dense", "sparse"):
            attention = f"{name}/self_attention"
            expected |= {f"{attention}/{x}/kernel": (1, 2) for x in ("query", "key", "value")}
            expected[f"{attention}/output/kernel"] = (2, 1)
        for path, split in list(expected.items()):
            for slot in ("momentum", "velocity"):
                expected[f"adam/{path.replace('/', '_')}_{slot}"] = split
        variables = [*model.variables, *model.optimizer.variables]
        split = {x.path: parts(x) for x in variables if set(parts(x)) - {1}}
        self.assertEqual(split, expected)

    def test_tables_of_the_vocabulary(self):
        with helpers.on(DENSE):
            layer = keras.layers.ReversibleEmbedding(16, 8, tie_weights=False)
            layer.build((None,))
        self.assertEqual([parts(x) for x in layer.weights], [(2, 1), (1, 2)])

    def test_checkpoints_hold_whole_experts_and_no_trace_of_a_mesh(self):
        model, _ = helpers.trained(helpers.dense_model, "mse", helpers.rows(), MESHES[0])
        with tempfile.TemporaryDirectory() as directory:
            paths = [str(pathlib.Path(directory) / f"{i}.keras") for i in range(3)]
            model.save(paths[0])
            for before, after, mesh in zip(paths, paths[1:], (None, HIDDEN)):
                with helpers.on(mesh):
                    loaded = keras.models.load_model(before)
                loaded.save(after)
                split = (1, 1, 1) if mesh is None else (4, 1, 2)
                self.assertEqual(parts(loaded.get_layer("switch").kernel_in), split)
                one = [*loaded.weights, *loaded.optimizer.variables]
                other = [*model.weights, *model.optimizer.variables]
                for a, b in zip(one, other, strict=True):
                    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
            self.assertEqual(config(paths[0]), config(paths[1]))
        self.assertIn((8, 8, 8), [x.shape for x in model.get_layer("switch").get_weights()])

    def test_layers_are_made_and_traced_without_memory(self):
        with keras.StatelessScope(initialize_variables=False), helpers.on(HIDDEN):
            layer = make(8)
            layer.build((8, 6, 8))
        self.assertIsNone(layer.kernel_in._value)
        self.assertEqual(layer.kernel_in._layout.axes, ("batch", None, "model"))
        layer = helpers.layer_on(HIDDEN, (8, 6, 8))
        x = jax.ShapeDtypeStruct((8, 6, 8), "float32")
        self.assertEqual(jax.eval_shape(layer, x).shape, x.shape)

    def test_batches_that_do_not_divide(self):
        with helpers.on(("batch:4", helpers.EXPERTS)):
            model = helpers.compiled(helpers.dense_model(), "mse")
        x, y = helpers.rows()
        message = r"the 4 cores of \['batch'\]. .*drop_remainder=True.*batch of shape \(6, 6, 8\)"
        for batch_size, size in ((6, 6), (8, 14)):
            with self.subTest(batch_size=batch_size), self.assertRaisesRegex(ValueError, message):
                model.fit(x[:size], y[:size], batch_size, verbose=0)

    def test_a_number_of_groups_that_does_not_divide(self):
        x = tokens(6, 4, 8)
        layer = helpers.layer_on(MESHES[1], x.shape, num_groups=6)
        with self.assertRaisesRegex(ValueError, "multiple of the mesh's 4 cores.*num_groups=6, La"):
            layer(x)

    def test_experts_that_do_not_divide(self):
        with helpers.on(MESHES[0]), self.assertRaisesRegex(ValueError, "num_experts=6 does not"):
            make(6).build((8, 4, 8))

    def test_missing_devices(self):
        with self.assertRaisesRegex(ValueError, r"16 cores and 8 are there.*connect\(cores=16\)"):
            Mesh("batch:16", helpers.EXPERTS, devices=jax.devices())

    def test_processes_hold_consecutive_parts_of_a_batch(self):
        with mock.patch("jax.process_count", return_value=2):
            with self.assertRaisesRegex(ValueError, r"name \['batch'\] first .*processes=\[0, 0"):
                Mesh("batch:8", helpers.EXPERTS, devices=jax.devices())

    def test_scalars_in_the_data_are_whole(self):
        with helpers.on(MESHES[0]):
            layout = keras.distribution.distribution().get_data_layout(())
        self.assertTrue(layout.backend_layout.is_fully_replicated)


if __name__ == "__main__":
    unittest.main()
