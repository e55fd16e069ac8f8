import contextlib
import importlib
import importlib.util
import io
import json
import os
import pathlib
import sys
import tempfile
import unittest
import unittest.mock

import jax
import keras
import model_helpers

from keras_switch.layers import SwitchDense
from keras_switch.tpu import Mesh
from keras_switch.tpu import Rehearsal
from keras_switch.tpu import rehearse
from keras_switch.tpu.rehearsal import chips
from keras_switch.tpu.rehearsal import compiler
from keras_switch.tpu.rehearsal import progress
from keras_switch.tpu.rehearsal import run
from keras_switch.training import Adafactor

GIB = 2**30
FIELDS = {
    "model": "small: 1,000 parameters, trained by Adam on batches of int32 (16, 512)",
    "topology": "v5e:2x4",
    "mesh": "batch:8",
    "layout": "batch:batch,experts:batch",
    "program": "The train step of the JAX backend.",
}


def memory(total):
    parts = {"arguments": 2 * GIB, "temporaries": total - 3 * GIB}
    rest = {"outputs": GIB // 2, "generated_code": GIB // 2}
    return {**parts, **rest, "total": total, "available": 15 * GIB}


def fitting():
    return Rehearsal(
        **FIELDS,
        memory=memory(7 * GIB),
        collectives=[
            {
                "kind": "all-to-all",
                "dtype": "bf16",
                "bytes": 3 * 2**19,
                "group_size": 8,
                "count": 4,
                "seconds": 0.25,
            }
        ],
        flops={"compiled": 2.1e12, "ideal": 2e12, "ratio": 1.05},
        seconds={"compute": 0.5, "memory": 1.0, "links": 0.25},
    )


class RehearsalTest(unittest.TestCase):
    def test_a_step_that_fits_is_a_table(self):
        rehearsal = fitting()
        self.assertTrue(rehearsal.fits)
        self.assertEqual(rehearsal.bound, "memory")
        text = str(rehearsal)
        for line in (
            'on v5e:2x4 (8 cores), Mesh("batch:8", "batch:batch,experts:batch")',
            "arguments         2.00",
            "generated code    0.50",
            "total             7.00 of 15.00: fits",
            "collective  dtype    MiB  cores  times       ms",
            "all-to-all   bf16  1.500      8      4  250.000",
            "Bound by memory: 1000.000 ms if all three overlap, 1750.000 ms if none do.",
            "A core computes 2.100 TFLOP, 1.050 times the 2.000 of the step's matrix products.",
        ):
            self.assertIn(line, text.splitlines())
        self.assertEqual(repr(rehearsal), text)

    def test_a_step_that_does_not_fit_says_what_does(self):
        proposal = {"topology": "v5e:4x4", "mesh": "batch:16", "layout": "l", "total": 9 * GIB}
        rehearsal = Rehearsal(**FIELDS, memory=memory(20 * GIB), proposal=proposal)
        self.assertFalse(rehearsal.fits)
        self.assertIsNone(rehearsal.bound)
        self.assertIn("20.00 of 15.00: DOES NOT FIT", str(rehearsal))
        self.assertIn('fits: v5e:4x4, Mesh("batch:16", "l"), with 9.00 GiB', str(rehearsal))
        self.assertNotIn("collective", str(rehearsal))

    def test_without_a_proposal_it_says_what_to_try(self):
        text = str(Rehearsal(**FIELDS, memory=memory(20 * GIB)))
        self.assertIn("No layout or slice that fits was found: try a smaller batch", text)

    def test_json_holds_everything(self):
        rehearsal = fitting()
        values = json.loads(rehearsal.to_json())
        self.assertEqual(values["collectives"][0]["kind"], "all-to-all")
        self.assertIs(values["fits"], True)
        self.assertEqual(values["bound"], "memory")
        self.assertEqual(Rehearsal.from_dict(values), rehearsal)


class ArgumentsTest(unittest.TestCase):
    """What is said before the compiler starts."""

    def setUp(self):
        # The module, which the function of the same name hides.
        module = importlib.import_module("keras_switch.tpu.rehearsal.rehearse")
        patch = unittest.mock.patch.object(module, "_check_installed")
        patch.start()
        self.addCleanup(patch.stop)
        self.layer = SwitchDense(8, 16)

    def refuse(self, message, *args, **kwargs):
        with self.assertRaisesRegex(ValueError, message):
            rehearse(*args, **kwargs)

    def test_bad_arguments_are_explained(self):
        self.refuse("must name a chip .* Received: topology='v5e'", self.layer, "v5e")
        self.refuse("A layer needs `input_shape`", self.layer)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        self.refuse("nothing else takes it", model, input_shape=(4,))
        self.refuse("must be a Keras model, a layer, or a function", 3)
        self.refuse("must return a Keras model", lambda: 3)
        self.refuse("its two strings.*Received: mesh='batch:8'", self.layer, mesh="batch:8")
        self.refuse("`batch_size` must be a positive integer", self.layer, batch_size=0)

    def test_a_function_must_not_compile(self):
        def build():
            model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
            model.compile("adam", "mse")
            return model

        self.refuse("a model that is not compiled: give `optimizer` and `loss`", build)
        self.refuse("`compile=False` to a task of KerasHub", model_helpers.language_model)

    def test_the_cores_of_mesh_and_slice_must_be_equal(self):
        for mesh in (
            ("batch:4", "batch:batch,experts:batch"),
            Mesh("batch:4,model:2", "batch:batch,experts:batch,expert_hidden:model"),
        ):
            topology = "v5e:2x4" if isinstance(mesh, tuple) else "v5e:2x2"
            self.refuse(
                "The mesh has . cores and the slice .: make them equal. Received: Layout",
                self.layer,
                topology,
                mesh,
                input_shape=(4, 8),
            )


class ClassesTest(unittest.TestCase):
    def test_the_other_process_imports_the_classes(self):
        optimizer = keras.saving.serialize_keras_object(Adafactor())
        with unittest.mock.patch.object(importlib, "import_module") as imported:
            run.import_classes([{"optimizer": optimizer, "loss": "mse"}])
        names = {call.args[0] for call in imported.call_args_list}
        modules = {f"keras_switch.training.{name}" for name in ("adafactor", "schedules")}
        self.assertEqual(names, modules)

    def test_a_class_that_cannot_be_had_is_explained(self):
        request = {
            "model": {"module": "__main__", "class_name": "Mine", "config": {}},
            "input_shape": [4],
            "compile": {"optimizer": "sgd", "loss": "mse"},
            "batch_size": 8,
            "sequence_length": 1,
            "topology": "v5e:1x1",
            "mesh": ["batch:1", "batch:batch,experts:batch"],
        }
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory) / "request.json"
            path.write_text(json.dumps(request))
            with unittest.mock.patch.object(compiler, "devices", lambda _: jax.devices("cpu")):
                run.main(path)
            self.assertIn("Could not locate class 'Mine'", json.loads(path.read_text())["error"])


class DescribeTest(unittest.TestCase):
    def test_the_inputs_are_named(self):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="small")
        model.compile("adam", "mse")
        ids, lengths = (jax.ShapeDtypeStruct(shape, "int32") for shape in ((8, 4), (8,)))
        for inputs, expected in (
            ({"ids": ids, "lengths": lengths}, "ids int32 (8, 4), lengths int32 (8,)"),
            (ids, "int32 (8, 4)"),
        ):
            step = unittest.mock.Mock(model=model, data=(inputs, None))
            self.assertEqual(
                run._describe(step),
                f"small: 10 parameters, trained by Adam on batches of {expected}",
            )


class CompilerTest(unittest.TestCase):
    def test_a_single_chip_is_a_host_of_its_own(self):
        for name, shape, options in (
            ("v5e:1x1", "v5e:1x1x1", {"chips_per_host_bounds": (1, 1, 1)}),
            ("v4:1x1x1", "v4:1x1x1", {"chips_per_host_bounds": (1, 1, 1)}),
            ("v5e:2x4", "v5e:2x4x1", {}),
        ):
            with unittest.mock.patch.object(compiler.topologies, "get_topology_desc") as get:
                compiler.devices(chips.Topology(name))
            get.assert_called_once_with(shape, "tpu", **options)

    def test_the_environment_is_as_it_was(self):
        seen = {}

        def look(*args, **kwargs):
            seen.update(os.environ)
            raise jax.errors.JaxRuntimeError("none")

        with (
            unittest.mock.patch.object(compiler.topologies, "get_topology_desc", look),
            unittest.mock.patch.dict(os.environ, {"TPU_WORKER_ID": "7"}),
        ):
            os.environ.pop("TPU_SKIP_MDS_QUERY", None)
            before = dict(os.environ)
            with self.assertRaisesRegex(ValueError, "libtpu knows no such slice"):
                compiler.devices(chips.Topology("v5e:2x4"))
            self.assertEqual(dict(os.environ), before)
        self.assertEqual((seen["TPU_SKIP_MDS_QUERY"], seen["TPU_WORKER_ID"]), ("1", "7"))

    def test_what_is_missing_is_named_with_what_to_install(self):
        for missing, message in (
            (("libtpu",), "and libtpu is not installed.* pip install 'jax.tpu.'"),
            (("jax", "libtpu"), "and jax and libtpu are not installed.* pip install 'jax.tpu.'"),
        ):
            with (
                unittest.mock.patch.object(
                    importlib.util, "find_spec", lambda name: None if name in missing else True
                ),
                self.assertRaisesRegex(ImportError, message),
            ):
                rehearse(SwitchDense(8, 16), input_shape=(4, 8))


class ProgressTest(unittest.TestCase):
    def test_the_lines_of_another_process_are_passed_on(self):
        code = "import sys; from keras_switch.tpu.rehearsal import progress as p; "
        code += "p.teller(1)('compiling'); p.teller(0)('no'); print('noise', file=sys.stderr)"
        code += "; print('more'); sys.exit(3)"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors):
            code, others = progress.run([sys.executable, "-c", code], environment)
        self.assertEqual((code, errors.getvalue()), (3, "rehearse: compiling\n"))
        self.assertTrue(others.endswith("noise\n"), others)

    def test_a_process_that_fails_is_told_by_its_last_line(self):
        module = importlib.import_module("keras_switch.tpu.rehearsal.rehearse")
        for errors, message in (
            ("one\nKilled\n", "process failed: Killed\n"),
            ("", "process failed: it said nothing"),
        ):
            with (
                unittest.mock.patch.object(module, "_check_installed"),
                unittest.mock.patch.object(keras.config, "backend", return_value="tensorflow"),
                unittest.mock.patch.object(progress, "run", return_value=(-9, errors)),
                self.assertRaisesRegex(RuntimeError, message),
            ):
                rehearse(SwitchDense(8, 16), input_shape=(4, 8))


if __name__ == "__main__":
    unittest.main()
