"""Tests of the repository around the code: imports, arrows, README, links, distributions."""

import ast
import importlib.metadata
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unittest
import zipfile

import keras

import keras_switch

TESTS = pathlib.Path(__file__).resolve().parent
ROOT = TESTS.parent
PACKAGE = ROOT / "keras_switch"
CORPORA = {
    f"keras_switch/data/corpora/{name}"
    for name in ("README.md", "sotu.txt.xz", "gnome/CREDITS.md", "gnome/de.txt.xz")
}

# What each part may import of the others.
ARROWS = {
    "__init__": {"process"},
    "atomic": set(),
    "checks": set(),
    "command_line": set(),
    "private": set(),
    "process": set(),
    "registered": set(),
    "backend": {"private"},
    "layers": {"checks", "private", "backend"},
    "data": {"atomic", "checks", "layers", "backend"},
    "models": {"atomic", "checks", "layers", "backend"},
    "tpu": {"checks", "private", "layers", "backend"},
    "weights": {"atomic", "checks", "models", "data", "layers", "backend"},
    "export": {"atomic", "checks", "models", "data", "layers", "backend"},
    "training": {
        "atomic",
        "checks",
        "configs",
        "private",
        "models",
        "data",
        "tpu",
        "layers",
        "backend",
    },
    "configs": {"checks"},
    "commands": {
        "atomic",
        "command_line",
        "configs",
        "process",
        "training",
        "weights",
        "export",
        "tpu",
        "models",
        "data",
        "layers",
        "backend",
    },
    "cli": {"__version__", "command_line", "commands", "process", "training"},
}
USES_TENSORFLOW = {"backend", "private", "data", "weights", "export", "tpu"}
USES_JAX = {"backend", "tpu"}
HEAVY = ("matplotlib", "sentencepiece", "tensorflow_text", "keras_hub", "keras_switch.training")
IGNORED = (
    "*.egg-info",
    "*_cache",
    "__pycache__",
    ".*",
    "build",
    "dist",
    "runs",
    "bazel-*",
    "fresh*",
)

PRINT_IMPORTED = f"""
import sys
import keras
before = set(sys.modules)
import keras_switch
print([name for name in {HEAVY!r} if name in sys.modules and name not in before])
"""
PRINT_IMPORTED_BY_THE_COMMAND = """
import sys
sys.argv = ["/usr/bin/keras-switch", *sys.argv[1:]]
from keras_switch.cli import main
try:
    main(["keras-switch", *{arguments!r}])
except SystemExit as stop:
    print([stop.code, *(name for name in ("keras", "jax", "tensorflow") if name in sys.modules)])
"""
PRINT_REGISTERED = """
import keras
import keras_switch
print(keras.saving.get_registered_object("keras_switch>SwitchDense").__name__)
"""
SAVE_ALL = """
import keras
import tokenizer_helpers
from keras_switch import layers
from keras_switch import models
from keras_switch import training

tokenizer = models.SwitchTokenizer(tokenizer_helpers.spiece_model())
sizes = (tokenizer.vocabulary_size(), 1, 2, 8, 16)
lm = models.SwitchSeq2SeqLM(
    models.SwitchBackbone(*sizes, tie_embedding_weights=False),
    preprocessor=models.SwitchSeq2SeqLMPreprocessor(tokenizer, 8, 8),
)
lm.compile(training.Adafactor())
lm.save("lm.keras")
lm.save_to_preset("lm")
classifier = models.SwitchTextClassifier(
    models.SwitchBackbone(*sizes),
    2,
    preprocessor=models.SwitchTextClassifierPreprocessor(tokenizer, 8),
)
classifier.save("classifier.keras")
keras.models.clone_model(classifier).save("clone.keras")
layer = layers.SwitchDense(2, 4, activation="gelu_approximate")
model = keras.Sequential([keras.Input((6,)), layer])
model.compile(keras.optimizers.SGD(training.RelativeStep()), "mse")
model.save("layer.keras")
"""
LOAD = """
import sys
import keras
import keras_switch

if sys.argv[1].endswith(".keras"):
    model = keras.saving.load_model(sys.argv[1])
else:
    import keras_hub

    model = keras_hub.models.Backbone.from_preset(sys.argv[1])
print(type(model).__name__, type(getattr(model, "optimizer", None)).__name__)
"""
LOADED = {
    "lm.keras": "SwitchSeq2SeqLM Adafactor",
    "classifier.keras": "SwitchTextClassifier Adam",
    "clone.keras": "Functional Adam",
    "layer.keras": "Sequential SGD",
    "lm": "SwitchBackbone NoneType",
}
SPLIT_THE_CPU = {
    "tensorflow": """
import keras_switch
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
print(len(tf.config.list_logical_devices("CPU")))
""",
    "jax": """
import keras_switch
import jax
jax.config.update("jax_num_cpu_devices", 2)
print(len(jax.devices("cpu")))
""",
}
BUILD_BOTH = """
from setuptools import build_meta
build_meta.build_wheel("dist")
build_meta.build_sdist("dist")
"""


def run_python(code, *arguments, cwd=ROOT, **environment):
    """Run `code` in a fresh interpreter and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": f"{ROOT}", **environment},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise AssertionError(f"{code}\nfailed with\n{done.stderr}")
    return done.stdout.strip()


def imported_modules(path):
    """Yield the dotted names that the module at `path` imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise AssertionError(f"{path} has a relative import, line {node.lineno}")
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules_of_package():
    """Yield (part, path) of every module: the part is a folder or a top-level module."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).with_suffix("").parts[0], path


def python_files():
    """Yield the Python files of the tree, relative to its root."""
    for top in sorted(ROOT.iterdir()):
        if top.is_symlink() or any(top.match(pattern) for pattern in IGNORED):
            continue
        paths = top.rglob("*.py") if top.is_dir() else [top]
        yield from (path.relative_to(ROOT) for path in paths if path.suffix == ".py")


def readme_code():
    """Return the Python blocks of the README."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)


class ImportTest(unittest.TestCase):
    def test_import_loads_no_heavy_part(self):
        self.assertEqual(run_python(PRINT_IMPORTED), "[]")

    def test_import_registers_the_layers(self):
        self.assertEqual(run_python(PRINT_REGISTERED), "SwitchDense")

    def test_help_imports_no_keras(self):
        for arguments in (["--help"], ["pretrain", "--help"], ["models"], ["generate", "--x"]):
            code = PRINT_IMPORTED_BY_THE_COMMAND.format(arguments=arguments)
            expected = "[2]" if "--x" in arguments else "[0]"
            self.assertEqual(run_python(code).splitlines()[-1], expected, arguments)

    def test_all_classes_are_registered(self):
        decorated = re.compile(r'_serializable\(package="keras_switch"\)\n(?:class|def) (\w+)')
        names = [x for _, path in modules_of_package() for x in decorated.findall(path.read_text())]
        self.assertGreater(len(names), 10)
        for name in names:
            self.assertIn(f"keras_switch>{name}", keras.saving.get_custom_objects())

    def test_files_load_after_the_import_alone(self):
        with tempfile.TemporaryDirectory() as folder:
            run_python(SAVE_ALL, cwd=folder, PYTHONPATH=os.pathsep.join((f"{ROOT}", f"{TESTS}")))
            for name, expected in LOADED.items():
                with self.subTest(name):
                    self.assertEqual(run_python(LOAD, name, cwd=folder), expected)

    def test_import_touches_no_device(self):
        for backend, code in SPLIT_THE_CPU.items():
            with self.subTest(backend=backend):
                if not importlib.util.find_spec(backend):
                    self.skipTest(f"{backend} is not installed.")
                printed = run_python(code, KERAS_BACKEND=backend, JAX_PLATFORMS="cpu")
                self.assertEqual(printed, "2")

    def test_parts_load_when_used(self):
        self.assertIn("tpu", dir(keras_switch))
        self.assertEqual(keras_switch.tpu.__name__, "keras_switch.tpu")

    def test_unknown_attribute(self):
        with self.assertRaisesRegex(AttributeError, "'keras_switch' has no attribute 'nothing'"):
            keras_switch.nothing

    def test_version_is_that_of_the_distribution(self):
        self.assertEqual(keras_switch.__version__, importlib.metadata.version("keras-switch"))


class ArrowsTest(unittest.TestCase):
    def test_parts_import_along_the_arrows(self):
        for part, path in modules_of_package():
            for name in imported_modules(path):
                names = name.split(".")
                if names[0] != "keras_switch":
                    continue
                self.assertIn(names[1], {part, *ARROWS[part]}, f"{path} imports {name}")

    def test_tensorflow_and_jax_stay_in_their_parts(self):
        for part, path in modules_of_package():
            for name in imported_modules(path):
                library = name.split(".")[0]
                if library.startswith("tensorflow"):
                    self.assertIn(part, USES_TENSORFLOW, f"{path} imports {name}")
                if library in ("jax", "jaxlib"):
                    self.assertIn(part, USES_JAX, f"{path} imports {name}")

    def test_modules_and_functions_are_short(self):
        for _, path in modules_of_package():
            text = path.read_text(encoding="utf-8")
            self.assertLessEqual(len(text.splitlines()), 300, path)
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef) and node.name != "__init__":
                    first = node.body[ast.get_docstring(node) is not None :] or node.body
                    length = node.end_lineno - first[0].lineno + 1
                    self.assertLessEqual(length, 40, f"{path}: {node.name}")

    def test_links_point_at_their_parts(self):
        for name in ("layers", "tpu"):
            self.assertTrue((ROOT / name).is_symlink())
            self.assertEqual((ROOT / name).resolve(), PACKAGE / name)


class ReadmeTest(unittest.TestCase):
    def test_code_runs(self):
        blocks = readme_code()
        self.assertTrue(blocks, "README.md has no Python block")
        for block in blocks:
            with self.subTest(block), tempfile.TemporaryDirectory() as folder:
                run_python(block, cwd=folder, MPLBACKEND="Agg")

    def test_the_table_of_models_is_that_of_the_command(self):
        document = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
        table = (PACKAGE / "models" / "presets.md").read_text(encoding="utf-8")
        self.assertIn(f"\n\n{table}\n", document)


class BuildTest(unittest.TestCase):
    def test_every_python_file_is_in_a_target(self):
        patterns = {
            str((build.parent / pattern.replace("%s", "*")).relative_to(ROOT))
            for build in (ROOT / "BUILD", ROOT / "third_party" / "bazel" / "BUILD")
            for pattern in re.findall(r'"([^":]*\.py)"', build.read_text(encoding="utf-8"))
        }
        for path in python_files():
            deep = [x for x in patterns if x.count("/") == len(path.parts) - 1]
            found = any(path.match(pattern) for pattern in deep)
            self.assertTrue(found, f"{path} is in no glob of a BUILD file")

    def test_bazel_ignores_the_environments_and_the_links(self):
        ignored = (ROOT / ".bazelignore").read_text(encoding="utf-8").split()
        peers = [path.stem for path in ROOT.glob("requirements/prove-*.txt")]
        self.assertTrue(peers)
        for name in (
            ".venv",
            ".venv-newest",
            ".venv-oldest",
            "layers",
            "tpu",
            *(f".venv-{x}" for x in peers),
        ):
            self.assertIn(name, ignored)


class MakefileTest(unittest.TestCase):
    def test_slow_tests_are_those_of_bazel(self):
        lists = []
        for name, pattern in (
            ("Makefile", r"SLOW_TESTS := (.*?)\n\n"),
            ("BUILD", r"SLOW_TESTS = (.*?)\]"),
        ):
            text = (ROOT / name).read_text(encoding="utf-8")
            lists.append(re.findall(r"tests/\w+\.py", re.search(pattern, text, re.DOTALL)[1]))
        self.assertEqual(*lists)
        for path in lists[0]:
            self.assertTrue((ROOT / path).is_file(), path)

    def test_every_target_is_in_the_help(self):
        text = (ROOT / "Makefile").read_text(encoding="utf-8")
        phony = re.search(r"\.PHONY: (.*?)\n\n", text, re.DOTALL)[1].replace("\\\n", " ").split()
        shown = re.findall(r"^([a-z-]+):.*## .", text, re.MULTILINE)
        self.assertEqual(sorted(shown), sorted(phony))


class DistributionTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        copy = pathlib.Path(cls.folder.name) / "copy"
        shutil.copytree(ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(*IGNORED))
        run_python(BUILD_BOTH, cwd=copy)
        cls.wheel = zipfile.ZipFile(next(copy.glob("dist/*.whl"))).namelist()
        with tarfile.open(next(copy.glob("dist/*.tar.gz"))) as sdist:
            cls.sdist = [name.split("/", 1)[1] for name in sdist.getnames() if "/" in name]

    def test_wheel_holds_the_package_only(self):
        tops = {name.split("/")[0] for name in self.wheel}
        self.assertEqual({top for top in tops if not top.endswith(".dist-info")}, {"keras_switch"})
        self.assertFalse([name for name in self.wheel if "test" in name])

    def test_wheel_holds_every_module_and_its_data(self):
        modules = {str(path.relative_to(ROOT)) for _, path in modules_of_package()}
        self.assertLessEqual(modules, set(self.wheel))
        self.assertLessEqual(CORPORA, set(self.wheel))
        self.assertIn("keras_switch/models/presets.md", self.wheel)

    def test_sdist_leaves_the_links_out(self):
        self.assertIn("tests/package_test.py", self.sdist)
        self.assertLessEqual(CORPORA, set(self.sdist))
        for link in ("layers", "tpu"):
            self.assertFalse([name for name in self.sdist if name.split("/")[0] == link])


if __name__ == "__main__":
    unittest.main()
