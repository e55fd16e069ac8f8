"""KerasHub's preset folders, and the names of `presets.PRESETS`, as sources of models."""

import inspect
import json
import math
import pathlib

import keras
import keras_hub
import ml_dtypes  # noqa: F401 (gives numpy its bfloat16)
import numpy as np

from keras_switch import atomic
from keras_switch.layers import quantized
from keras_switch.models import presets

# What the constructor of a KerasHub task takes by keyword only, without naming it.
TASK_KEYWORDS = ("name", "trainable", "compile")
# What HDF5 needs for a weight besides its numbers: 4,064 were the most of several models.
_HDF5_BYTES = 5 * 1024


class PresetBackbone(keras_hub.models.Backbone):
    """A backbone whose folders keep weights and sizes, but not the dtype of the computation.

    So a folder gives a model that computes in `keras_switch.layers.dtypes.default_dtype`, unless
    `from_preset` is asked for another dtype, also through the base classes of KerasHub. A
    policy of several dtypes, such as that of quantised layers, is kept.
    """

    @classmethod
    def from_preset(cls, preset, load_weights=True, **kwargs):
        """Makes the backbone of a local folder, or one of `presets.PRESETS` with random weights.

        Args:
            preset: string. A folder written by `save_to_preset` or `keras-switch convert`;
                `"switch_micro_english"`, which is trained; or a name such as `"switch_base_8"`,
                which takes `load_weights=False`.
            load_weights: bool. Whether to load the folder's weights.
            **kwargs: Arguments that replace the preset's, such as `dtype`.

        Returns:
            `SwitchBackbone`.

        Raises:
            ValueError: If there is no such preset, or a name is to be loaded with weights.
        """
        preset = presets.address(preset)
        if preset in presets.PRESETS:
            presets.check_no_weights(preset, load_weights)
            return cls(**{**presets.preset(preset), **kwargs})
        presets.check_address(preset)
        path = pathlib.Path(preset, "config.json")
        if path.is_file():  # KerasHub would drop a saved policy.
            saved = json.loads(path.read_text()).get("config", {}).get("dtype")
            kwargs["dtype"] = _dtype(saved, kwargs.get("dtype"))
        return super().from_preset(preset, load_weights=load_weights, **kwargs)

    def get_config(self):
        # KerasHub's own forgets which dtype its quantized layers had before.
        policy = keras.dtype_policies.serialize(quantized.policy_of(self))
        return {"name": self.name, "trainable": self.trainable, "dtype": policy}

    def save_to_preset(self, preset_dir, max_shard_size=10):
        """Writes the folder that `from_preset` reads.

        Args:
            preset_dir: Path of the folder.
            max_shard_size: float. Gigabytes of a file of weights, or `None` for one file.

        Raises:
            OSError: If the disk is too full, which in the middle of a file would end the process.
        """
        pathlib.Path(preset_dir).mkdir(parents=True, exist_ok=True)
        size = sum(math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in self.weights)
        size += _HDF5_BYTES * (1 + len(self.weights))
        atomic.reserve(pathlib.Path(preset_dir, "model.weights.h5"), size)
        super().save_to_preset(preset_dir, max_shard_size=max_shard_size)
        path = pathlib.Path(preset_dir, "config.json")
        config = json.loads(path.read_text())
        if config["config"]["dtype"]["class_name"] == "DTypePolicy":
            del config["config"]["dtype"]
        path.write_text(json.dumps(config, indent=4))


class PresetTexts:
    """What comes before the model, a tokenizer or a preprocessor, from KerasHub's folders."""

    @classmethod
    def from_preset(cls, preset, **kwargs):
        """Makes the tokenizer or the preprocessor of a folder.

        Args:
            preset: string. A folder written by `save_to_preset` or `keras-switch convert`.
            **kwargs: Arguments that replace the folder's.

        Raises:
            ValueError: If there is no such folder, or it is not one of KerasHub's.
        """
        preset = presets.address(preset)
        presets.check_has_texts(preset)
        return super().from_preset(preset, **kwargs)


def load_task(cls, load, preset, load_weights=True, preprocessor="auto", **kwargs):
    """Makes a task of a folder, which may lack a tokenizer, or of a name in `presets.PRESETS`.

    Args:
        cls: The task's class.
        load: KerasHub's `from_preset` of that class, for folders.
        preset: string. Path of the folder, or the name.
        load_weights: bool. Whether to load weights. Names have none.
        preprocessor: Preprocessor or `None`, in the place of the folder's. KerasHub's own loader
            would ask the folder for the vocabulary of a preprocessor that it is given.
        **kwargs: Arguments of the task, and of its backbone.

    Returns:
        The task. Its preprocessor is `None` where there is none.
    """
    preset = presets.address(preset)
    presets.check_address(preset)
    is_name = preset in presets.PRESETS
    names = {*inspect.signature(cls.__init__).parameters, *TASK_KEYWORDS}
    own = {name: kwargs.pop(name) for name in names.intersection(kwargs)}
    if is_name or kwargs:  # KerasHub knows a dtype only, and loses what is quantized for it.
        kwargs = {"backbone": cls.backbone_cls.from_preset(preset, load_weights, **kwargs)}
    has_one = not is_name and _has_preprocessor(pathlib.Path(preset))
    if preprocessor == "auto" and has_one:
        return load(preset, load_weights=load_weights, **kwargs, **own)
    preprocessor = None if preprocessor == "auto" else preprocessor
    if is_name:
        return cls(**kwargs, preprocessor=preprocessor, **own)
    task = load(preset, load_weights=load_weights, preprocessor=None, **kwargs, **own)
    task.preprocessor = preprocessor
    return task


def _dtype(saved, dtype):
    """The dtype to load with. Layers that are quantized stay so."""
    is_map = isinstance(saved, dict) and saved["class_name"] == "DTypePolicyMap"
    if dtype is None or not is_map:
        return saved if dtype is None else dtype
    name = keras.dtype_policies.get(dtype).name
    saved["config"]["default_policy"] = name
    for policy in saved["config"]["policy_map"].values():
        policy["config"]["source_name"] = name
    return saved


def _has_preprocessor(folder):
    """Whether there is one, or might be, in a folder or at an address."""
    names = ("tokenizer.json", "preprocessor.json")
    if not folder.is_dir() or any((folder / name).exists() for name in names):
        return True
    task = folder / "task.json"
    return task.exists() and json.loads(task.read_text())["config"]["preprocessor"] is not None
