"""What a TPU slice would hold, exchange and compute, before anyone rents it."""

import importlib.util
import json
import os
import pathlib
import sys
import tempfile

import keras

from keras_switch import checks
from keras_switch.layers import parallelism
from keras_switch.layers import scopes
from keras_switch.tpu.rehearsal import progress
from keras_switch.tpu.rehearsal.chips import Topology
from keras_switch.tpu.rehearsal.report import Rehearsal


def rehearse(
    model,
    topology="v5e:2x4",
    mesh=None,
    *,
    input_shape=None,
    optimizer=None,
    loss=None,
    batch_size=None,
    sequence_length=512,
    search=True,
    verbose=1,
):
    """Compiles a train step for a TPU slice, with the TPU's compiler and without a TPU.

    The whole step, of forward pass, loss, gradients and optimizer, is the one that `fit` runs on
    the JAX backend. Of the model only shapes are used, and nothing is allocated. A model of
    another backend is compiled in a process of its own, from its config. Large models take
    minutes.

    The times come from the numbers in `keras_switch.tpu.CHIPS`: the compiled operations at the
    peak of bfloat16 (products of float32 tensors take six passes), what the instructions read
    from the memory and write to it at its peak, and what every collective sends over the links
    of the torus. No latency is in them.

    If the step does not fit into the memory of a core, the nearest layout or slice that holds it
    is looked for: other layouts of the same slice first, which split every weight over 2, 4, 8
    or 16 cores besides the experts, then larger slices of the same chip. The first that compiles
    within the memory is proposed.

    Args:
        model: `keras.Model`; a `keras.layers.Layer`, with `input_shape`; or a function without
            arguments that returns a model, which is called where variables take no memory. It
            must be possible to make the model from its config.
        topology: string. A chip and its number along each axis of the slice, such as
            `"v5e:2x4"`, `"v4:2x2x4"`, `"v5p:8x8x16"` or `"v6e:16x16"`.
        mesh: `Mesh`, or a pair of its two strings. It must have the cores of the slice. Defaults
            to `"batch:CORES"` with the experts split over all of them.
        input_shape: Tuple. The shape of a layer's input, without the batch.
        optimizer: `keras.optimizers.Optimizer` or its name. Defaults to what the model is
            compiled with, or else Adam.
        loss: `keras.losses.Loss` or its name. Defaults to what the model is compiled with, or
            else the mean squared error.
        batch_size: int. Rows of a batch, of all cores. Defaults to 8 for each core.
        sequence_length: int, or dict of ints by the name of the input. The size of the axes that
            the model leaves open.
        search: bool. Whether to look for a layout or a slice that fits.
        verbose: 0 or 1. Whether to say on stderr what is being done.

    Returns:
        `Rehearsal`, which prints as a table; see also its `to_json()`.

    Raises:
        ImportError: If libtpu is not installed.
        ValueError: If there is no such slice, the mesh has other than its cores, or it does not
            divide the model or the batch.

    Example:
    >>> layer = keras_switch.layers.SwitchDense(num_experts=8, intermediate_dim=3072)
    >>> rehearse(layer, "v5e:2x4", input_shape=(512, 768))  # doctest: +SKIP
    """
    topology = Topology(topology)
    mesh = _strings(mesh, topology)
    _check_installed()
    if batch_size is None:
        batch_size = 8 * topology.num_cores
    batch_size = checks.check_positive_integer("batch_size", batch_size)
    progress.teller(verbose)("building the model, without its numbers")
    request = {
        **_serialized(model, input_shape, optimizer, loss),
        "topology": topology.name,
        "mesh": mesh,
        "batch_size": batch_size,
        "sequence_length": sequence_length,
        "search": search,
        "verbose": verbose,
        "program": "The train step of the JAX backend.",
    }
    if keras.config.backend() == "jax":
        from keras_switch.tpu.rehearsal.run import run

        return Rehearsal.from_dict(run(request))
    request["program"] = (
        "The train step of the JAX backend, made from the config of a model of the "
        f"{keras.config.backend()} backend in a process of its own."
    )
    return Rehearsal.from_dict(_run_elsewhere(request))


def _strings(mesh, topology):
    """The two strings of a mesh."""
    if mesh is None:
        return (f"batch:{topology.num_cores}", "batch:batch,experts:batch")
    if hasattr(mesh, "layout"):
        return mesh.layout.strings
    if not isinstance(mesh, (tuple, list)) or [type(x) for x in mesh] != [str, str]:
        raise ValueError(
            "`mesh` must be a `keras_switch.tpu.Mesh` or its two strings, such as "
            f"('batch:8', 'batch:batch,experts:batch'). Received: mesh={mesh!r}"
        )
    return tuple(mesh)


def _serialized(model, input_shape, optimizer, loss):
    """What another process needs to make the compiled model."""
    is_layer = isinstance(model, keras.layers.Layer) and not isinstance(model, keras.Model)
    if is_layer != (input_shape is not None):
        raise ValueError(
            "A layer needs `input_shape`, without the batch, and nothing else takes it. Received: "
            f"model={model!r}, input_shape={input_shape!r}"
        )
    if not isinstance(model, keras.layers.Layer):
        model = _build(model)
    compiled = None if is_layer else model.get_compile_config()
    config = keras.saving.serialize_keras_object(model)
    config.pop("compile_config", None)
    if is_layer:
        config.pop("build_config", None)
    if hasattr(model, "backbone"):
        config["config"]["compile"] = False  # KerasHub's tasks would compile themselves.
    compiled = {"optimizer": "adam", "loss": "mean_squared_error", **(compiled or {})}
    for name, value in (("optimizer", optimizer), ("loss", loss)):
        if value is not None:
            get = keras.optimizers.get if name == "optimizer" else keras.losses.get
            compiled[name] = keras.saving.serialize_keras_object(get(value))
    shape = None if input_shape is None else list(input_shape)
    return {"model": config, "input_shape": shape, "compile": compiled}


def _build(function):
    """Calls a function that returns a model where variables take no memory."""
    if not callable(function):
        raise ValueError(
            "`model` must be a Keras model, a layer, or a function that returns a model. "
            f"Received: model={function!r}"
        )
    with (
        parallelism.use(parallelism.Parallelism()),
        scopes.without_values(),
    ):
        try:
            model = function()
        except ValueError as error:
            if "stateless scope" not in str(error):
                raise
            raise ValueError(
                "The function given as `model` must return a model that is not compiled: give "
                "`optimizer` and `loss` to `rehearse`, and `compile=False` to a task of KerasHub. "
                f"Received: {function!r}"
            ) from error
    if not isinstance(model, keras.Model):
        raise ValueError(
            "The function given as `model` must return a Keras model. "
            f"Received: {function!r}, which returned {model!r}"
        )
    return model


def _check_installed():
    missing = [name for name in ("jax", "libtpu") if importlib.util.find_spec(name) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise ImportError(
            f"`rehearse` compiles with JAX and libtpu, and {' and '.join(missing)} {verb} not "
            "installed. Neither needs a TPU: pip install 'jax[tpu]'"
        )


def _run_elsewhere(request):
    """Runs a request in a process whose backend is JAX."""
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "request.json"
        path.write_text(json.dumps(request))
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "KERAS_BACKEND": "jax",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        command = [sys.executable, "-m", "keras_switch.tpu.rehearsal.run", str(path)]
        code, errors = progress.run(command, environment)
        if code:
            last = (errors.strip().splitlines() or ["it said nothing"])[-1]
            raise RuntimeError(f"The rehearsal's process failed: {last}\n{errors[-4000:]}")
        answer = json.loads(path.read_text())
    if "error" in answer:
        raise ValueError(answer["error"])
    return answer
