"""Classes that Keras finds by name in files, in parts that load when they are first used."""

import importlib

import keras

CLASSES = {
    "keras_switch.models": (
        "SwitchBackbone",
        "SwitchSeq2SeqLM",
        "SwitchSeq2SeqLMPreprocessor",
        "SwitchTextClassifier",
        "SwitchTextClassifierPreprocessor",
        "SwitchTokenizer",
    ),
    "keras_switch.models.losses": ("TargetCrossEntropy",),
    "keras_switch.models.switch_text_classifier": ("Float32Dense",),
    "keras_switch.training": ("Adafactor", "InverseSquareRoot", "RelativeStep"),
}


def register():
    """Registers a stand-in for each class, whose place the class takes when it is loaded."""
    registered = keras.saving.get_custom_objects()
    for module, names in CLASSES.items():
        for name in names:
            registered.setdefault(f"keras_switch>{name}", _StandIn(module, name))


class _StandIn:
    """Loads the class as soon as anything is asked of it, and does what the class does.

    Args:
        module: string.
        name: string. The class in the module.
    """

    def __init__(self, module, name):
        self._module, self._name = module, name

    def _load(self):
        return getattr(importlib.import_module(self._module), self._name)

    def __getattr__(self, attribute):
        return getattr(self._load(), attribute)

    def __call__(self, *args, **kwargs):
        return self._load()(*args, **kwargs)

    @property
    def __bases__(self):  # For `issubclass`.
        return (self._load(),)

    def __eq__(self, other):
        return other is self or other is self._load()

    def __hash__(self):
        return hash(self._load())
