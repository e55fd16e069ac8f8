"""Private names of Keras, of all backends."""

# `scopes.without_values` takes the variables made in it off Keras's list of those that wait for a
# value, which is this attribute of the global state. Since Keras 3.0.
from keras.src.backend.common import global_state

# A split variable and an optimizer of replicas act otherwise inside the scope in which Keras runs
# `stateless_apply`. Since Keras 3.0.
from keras.src.backend.common.stateless_scope import get_stateless_scope
from keras.src.backend.common.stateless_scope import in_stateless_scope

# The scope in which Keras calls a layer, whose weights then have the compute dtype: a layer that is
# rematerialized is called inside another one. Since Keras 3.0.
from keras.src.backend.common.variables import AutocastScope

# Keras's optimizers without what its TensorFlow backend changes in them. Since Keras 3.0.
from keras.src.optimizers.base_optimizer import BaseOptimizer

# What `Model.save` is made of: `Snapshot` takes the state of a model first, and writes the `.keras`
# file later. `save_state` takes no store of another class. Since Keras 3.0.
from keras.src.saving.saving_lib import DiskIOStore
from keras.src.saving.saving_lib import H5IOStore
from keras.src.saving.saving_lib import NpzIOStore
from keras.src.saving.saving_lib import _save_state as save_state
from keras.src.saving.saving_lib import _serialize_model_as_json as serialize_model

UNINITIALIZED_VARIABLES = "uninitialized_variables"

__all__ = [
    "AutocastScope",
    "BaseOptimizer",
    "DiskIOStore",
    "H5IOStore",
    "NpzIOStore",
    "UNINITIALIZED_VARIABLES",
    "get_stateless_scope",
    "global_state",
    "in_stateless_scope",
    "save_state",
    "serialize_model",
]
