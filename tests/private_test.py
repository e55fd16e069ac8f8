"""Tests of `keras_switch.private`: each private name of others is listed, and is there."""

import ast
import importlib
import inspect
import pathlib
import re
import unittest

import keras_switch
from keras_switch import private
from keras_switch.tpu.mtf import mesh_tensorflow

PACKAGE = pathlib.Path(keras_switch.__file__).parent
PRIVATE_MODULE = re.compile(r"(keras|keras_hub)\.src\b|tensorflow\.(python|compiler|core)\b|.*\._")
# Of a `namedtuple`, which documents them.
PUBLIC = {"_asdict", "_exit", "_fields", "_make", "_replace"}
# Attributes that only an instance has.
OF_INSTANCES = {
    "_accumulated_gradients",
    "_distribution_strategy",
    "_exclude_from_weight_decay",
    "_iterations",
    "_layout",
    "_losses",
    "_model_variables_moving_average",
    "_momentums",
    "_pairs",
    "_sentence_piece",
    "_shape",
    "_trainable_variables",
    "_value",
    "_velocities",
    "_dtype",
}


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def modules():
    """Yields (path, tree) of every module of the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def listed_names():
    return {name.rsplit(".", 1)[1] for name in (*private.READ, *private.OVERRIDDEN)}


def owner(name):
    """The class that a listed name belongs to."""
    path = name.rsplit(".", 1)[0]
    if path.startswith("mesh_tensorflow."):
        return getattr(mesh_tensorflow(), path.split(".", 1)[1])
    module, _, attribute = path.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


class PrivateNamesTest(unittest.TestCase):
    def test_private_modules_are_imported_in_one_place(self):
        for path, tree in modules():
            if path.parent.name == "private":
                continue
            for node in ast.walk(tree):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    names = [node.module]
                for name in names:
                    self.assertIsNone(PRIVATE_MODULE.match(name), f"{path} imports {name}")

    def test_private_attributes_are_our_own_or_listed(self):
        ours = set()
        for _, tree in modules():
            for node in ast.walk(tree):
                if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                    ours.add(node.name)
                elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                    ours.add(node.attr)
        known = ours | listed_names() | PUBLIC
        for path, tree in modules():
            for node in ast.walk(tree):
                if isinstance(node, ast.Attribute) and is_private(node.attr):
                    self.assertIn(node.attr, known, f"{path}, line {node.lineno}")

    def test_private_overrides_are_listed(self):
        listed = {name.rsplit(".", 1)[1] for name in private.OVERRIDDEN}
        for path, _ in modules():
            name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
            if "jax" in name or name.endswith(("serve", "__init__")):
                continue
            for value in vars(importlib.import_module(name)).values():
                if not inspect.isclass(value) or value.__module__ != name:
                    continue
                for base in value.__mro__[1:]:
                    if base.__module__.split(".")[0] in ("keras", "keras_hub", "tensorflow"):
                        shared = {*vars(value)} & {*vars(base)}
                        private_names = set(filter(is_private, shared)) - {"_api_export_path"}
                        self.assertLessEqual(private_names, listed, f"{value} of {base}")

    def test_listed_names_exist(self):
        for name in (*private.READ, *private.OVERRIDDEN):
            with self.subTest(name=name):
                attribute = name.rsplit(".", 1)[1]
                found = owner(name)
                if attribute in OF_INSTANCES:
                    bases = [base for base in found.__mro__ if base is not object]
                    sources = "".join(map(inspect.getsource, bases))
                    self.assertRegex(sources, rf"\b{attribute}\b")
                else:
                    self.assertTrue(hasattr(found, attribute))

    def test_listed_names_are_used(self):
        text = "".join(
            path.read_text(encoding="utf-8")
            for path, _ in modules()
            if path.parent.name != "private"
        )
        for name in listed_names():
            self.assertIn(name, text)


if __name__ == "__main__":
    unittest.main()
