"""The variables of a model that Keras does not save, by names that last."""

import re

import keras
import numpy as np


def of_model(model):
    """The variables that Keras does not save, by name."""
    saved = {id(variable) for variable in model.weights}
    return by_path(v for v in model.non_trainable_variables if id(v) not in saved)


def by_path(variables):
    """Variables by path; of those with the same path, the second has `#2` behind it.

    The numbers that Keras puts behind names of its own depend on what else the process
    has made, so they are left out.
    """
    named, counts = {}, {}
    for variable in variables:
        path = re.sub(r"_\d+(?=/|$)", "", variable.path)
        counts[path] = counts.get(path, 0) + 1
        named[path if counts[path] == 1 else f"{path}#{counts[path]}"] = variable
    return named


def values_of(named):
    return {name: value_of(variable).tolist() for name, variable in named.items()}


def value_of(variable):
    # The tensor of a metric on several cores is the sum over them.
    return keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(variable))


def check(named, values):
    """Refuses values of other variables."""
    if set(named) != set(values):
        raise ValueError(
            "The checkpoint is not one of this model. Received: values without a variable "
            f"{sorted(set(values) - set(named))}, and variables without a value "
            f"{sorted(set(named) - set(values))}"
        )


def assign(named, values):
    check(named, values)
    for name, variable in named.items():
        variable.assign(np.asarray(values[name], dtype=variable.dtype))
