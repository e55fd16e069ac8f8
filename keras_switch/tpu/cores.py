"""The cores of this machine, or of the TPU that it reaches."""

import contextlib
import glob
import os
import pathlib
import typing

import keras

from keras_switch import checks
from keras_switch.tpu.precision import highest_float32

_found = None


class Cores(typing.NamedTuple):
    """What `connect` found.

    Attributes:
        description: string. One line.
        devices: List of names of TensorFlow devices, or of JAX devices.
        resolver: `TPUClusterResolver` on TensorFlow's TPUs, or `None`.
    """

    description: str
    devices: list
    resolver: typing.Any = None


def connect(cores=None, tpu=None):
    """Finds the cores of a mesh: a TPU if there is one, else GPUs, else virtual CPU cores.

    Call it before anything else uses TensorFlow or JAX. It says in one line what it found, and
    makes the router's float32 products true float32 (`highest_float32`).

    Args:
        cores: int. How many virtual CPU cores to make where there is neither TPU nor GPU: they
            let a laptop do what a slice does. Defaults to 8. TPUs and GPUs are all used.
        tpu: string. Name of a TPU to reach over the network, on TensorFlow. Defaults to the one of
            this machine, if there is one.

    Returns:
        int. The number of cores.

    Raises:
        ValueError: If `cores` is no positive integer, or the backend is neither TensorFlow nor JAX.
        RuntimeError: If devices were used before, so that CPU cores can no longer be made.

    Example:
    >>> keras_switch.tpu.connect(cores=8)  # doctest: +SKIP
    8 virtual CPU cores.
    8
    """
    global _found
    if cores is not None:
        cores = checks.check_positive_integer("cores", cores)
    highest_float32()
    find = _find_tensorflow if keras.config.backend() == "tensorflow" else _find_jax
    _found = find(cores or 8, tpu)
    print(_found.description)
    return len(_found.devices)


def are_connected():
    """Whether `connect` was called."""
    return _found is not None


def found():
    """Returns the `Cores` that `connect` found.

    Raises:
        RuntimeError: If `connect` was not called.
    """
    if _found is None:
        raise RuntimeError(
            "A mesh needs cores: call keras_switch.tpu.connect() at the start of the program."
        )
    return _found


def _find_tensorflow(cores, tpu):
    import tensorflow as tf

    tpu = tpu or os.environ.get("TPU_NAME") or os.environ.get("COLAB_TPU_ADDR")
    if tpu or _has_tpu():
        return _initialize_tpu(tpu)
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        return Cores(f"{len(gpus)} GPUs.", [f"GPU:{i}" for i in range(len(gpus))])
    cpu = tf.config.list_physical_devices("CPU")[0]
    if len(tf.config.get_logical_device_configuration(cpu) or [None]) != cores:
        try:
            tf.config.set_logical_device_configuration(
                cpu, [tf.config.LogicalDeviceConfiguration()] * cores
            )
        except RuntimeError as error:
            raise _too_late("TensorFlow", cores) from error
    return Cores(f"{cores} virtual CPU cores.", [f"CPU:{i}" for i in range(cores)])


def _has_tpu():
    """Whether a device of this machine is one of Google's accelerators."""
    vendors = glob.glob("/sys/bus/pci/devices/*/vendor")
    devices = glob.glob("/dev/accel[0-9]*") + glob.glob("/dev/vfio/[0-9]*")
    return bool(devices) and any(pathlib.Path(x).read_text().strip() == "0x1ae0" for x in vendors)


def _initialize_tpu(tpu):
    import tensorflow as tf

    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu or "local")
        if tpu:
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, tf.errors.OpError) as error:
        raise RuntimeError(
            "There is a TPU, and this TensorFlow does not start it. Install tensorflow-tpu instead "
            "of tensorflow (see requirements/tpu.txt), or set KERAS_BACKEND=jax. "
            f"Received: tpu={tpu!r}, TensorFlow {tf.__version__}, {error}"
        ) from error
    devices = [device.name for device in tf.config.list_logical_devices("TPU")]
    return Cores(f"{len(devices)} TPU cores.", devices, resolver)


def _find_jax(cores, tpu):
    import jax

    if tpu is not None:
        raise ValueError(
            "JAX uses the TPU of its own machine: leave `tpu` out, and for several machines call "
            f"keras.distribution.initialize first. Received: tpu={tpu!r}"
        )
    # Where JAX has its devices already, they are counted below.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", cores)
    devices = jax.devices()
    kind = devices[0].platform.upper()
    if kind != "CPU":
        return Cores(f"{len(devices)} {kind} cores.", devices)
    if jax.local_device_count() != cores and jax.process_count() == 1:
        raise _too_late("JAX", cores)
    return Cores(f"{len(devices)} virtual CPU cores.", devices)


def _too_late(name, cores):
    return RuntimeError(
        f"{name} has its devices already, and cannot make {cores} CPU cores: call "
        "keras_switch.tpu.connect before anything else, in a fresh process or notebook."
    )
