"""A Python toolchain whose interpreter is that of the `.venv` which `make venv` sets up."""

TOOLCHAIN = """
load("@bazel_tools//tools/python:toolchain.bzl", "py_runtime_pair")

py_runtime(
    name = "interpreter",
    interpreter_path = "%s",
    python_version = "PY3",
)

py_runtime_pair(
    name = "runtimes",
    py3_runtime = ":interpreter",
)

toolchain(
    name = "toolchain",
    toolchain = ":runtimes",
    toolchain_type = "@bazel_tools//tools/python:toolchain_type",
)
"""

def _venv_python_impl(repository_ctx):
    root = repository_ctx.path(Label("@keras_switch//:WORKSPACE")).dirname
    python = root.get_child(".venv").get_child("bin").get_child("python")
    repository_ctx.file("BUILD", TOOLCHAIN % python)

venv_python = repository_rule(implementation = _venv_python_impl, local = True)
