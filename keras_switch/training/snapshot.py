"""The state of a model at one moment, in host memory, and as a `.keras` file."""

import contextlib
import io
import zipfile

import keras
import numpy as np

from keras_switch.private import keras as keras_private

WEIGHTS_NAME, CONFIG_NAME = "model.weights.h5", "config.json"


class Snapshot:
    """What `model.save` would write at this moment, held in host memory.

    Steps that follow change nothing in it, so that another thread can write it while they run.

    Args:
        model: `keras.Model`, built. Variables that a mesh splits are gathered whole.
        earlier: `Snapshot` of the same model, or `None`. To look up what a model saves takes
            Keras longer than a step may: where variables are all that it saves, and they are
            still those of the earlier snapshot, it is not looked up again.
    """

    def __init__(self, model, earlier=None):
        self._variables = [
            *model.variables,
            *getattr(getattr(model, "optimizer", None), "variables", ()),
        ]
        self._archive = io.BytesIO()
        with zipfile.ZipFile(self._archive, "w") as archive:
            config, metadata = keras_private.serialize_model(model)
            archive.writestr("metadata.json", metadata)
            archive.writestr(CONFIG_NAME, config)
            if earlier is not None and earlier._saves_only(self._variables):
                self._store = earlier._store.read_again()
            else:
                self._store = _HostStore()
                assets = keras_private.DiskIOStore("assets", archive=archive, mode="w")
                with contextlib.closing(assets):
                    keras_private.save_state(model, self._store, assets, "", set())
            self._has_assets = len(archive.namelist()) > 2

    def first_not_finite(self):
        """The path of the first trainable weight with NaN or infinity in it, or `None`."""
        for entry in self._store.contents.values():
            for path, value in entry.trainable.items():
                if not np.isfinite(value).all():
                    return path
        return None

    def write(self, path):
        """Writes the `.keras` file. This empties the snapshot, to free its memory as it goes."""
        path.write_bytes(self._archive.getvalue())
        contents = self._store.contents
        with zipfile.ZipFile(path, "a") as archive:
            weights = keras_private.H5IOStore(WEIGHTS_NAME, archive=archive, mode="w")
            with contextlib.closing(weights):
                for name in list(contents):
                    entry = contents.pop(name)
                    group = weights.make(name, metadata=entry.metadata)
                    for key, value in entry.items():
                        group[key] = value

    def _saves_only(self, variables):
        is_same = list(map(id, self._variables)) == list(map(id, variables))
        found = [x for _, sources in self._store.sources.values() for x in sources.values()]
        return is_same and all(x is not None for x in found) and not self._has_assets


class _HostStore(keras_private.NpzIOStore):
    """Takes copies of what the objects of a model save, and remembers the variables.

    Attributes:
        contents: Dictionary of `_Entry`s by name.
        sources: Dictionary by name of an entry's metadata and its variables.
    """

    def __init__(self):
        super().__init__(None, mode="w")
        self.sources = {}

    def make(self, path, metadata=None):
        entry = self.contents[path] = _Entry(metadata)
        self.sources[path] = metadata, entry.sources
        return entry

    def read_again(self):
        """Copies of what the variables hold now."""
        store = _HostStore()
        for path, (metadata, sources) in self.sources.items():
            entry = store.make(path, metadata)
            for key, variable in sources.items():
                entry[key] = variable
        return store


class _Entry(dict):
    """Arrays that one object saves, each a copy.

    Attributes:
        metadata: Dictionary, or `None`.
        sources: Dictionary by key of the variables, with `None` for what is none.
        trainable: Dictionary by path of the arrays of the trainable variables.
    """

    def __init__(self, metadata):
        super().__init__()
        self.metadata = metadata
        self.sources, self.trainable = {}, {}

    def __setitem__(self, key, value):
        is_variable = isinstance(value, keras.Variable)
        array = keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(value))
        # JAX may give the memory of a variable to the next step: a view of it would not do.
        array = array if array.flags.owndata else np.array(array)
        super().__setitem__(key, array)
        self.sources[key] = value if is_variable else None
        if is_variable and value.trainable and keras.backend.is_float_dtype(value.dtype):
            self.trainable[value.path] = array
