"""What `tpu_theory.py` needs to know of a split model."""

import tpu_cases

from keras_switch.layers import SwitchDense
from keras_switch.layers import routing
from keras_switch.tpu.tensorflow.split_variable import SplitVariable


def facts(mesh, model, case):
    """The mesh, sizes and weights of a model, in plain JSON."""
    layers = [x for x in model._flatten_layers() if isinstance(x, SwitchDense)]
    tokens = case.tokens[0] * case.tokens[1] // tpu_cases.CORES
    return {
        "mesh": mesh.layout.strings,
        "runs": case.runs,
        "optimizer": case.optimizer and case.optimizer.__name__,
        "tokens": tokens,
        "dtype": model.layers[-1].compute_dtype,
        "layers": [
            {
                "experts": layer.num_experts,
                "dim": layer.kernel_in.shape[1],
                "width": layer.intermediate_dim,
                "capacity": routing.expert_capacity(
                    tokens, layer.capacity_factor, layer.num_experts, layer.min_capacity
                ),
                "dtype": layer.compute_dtype,
            }
            for layer in layers
        ],
        # Path, whole shape, and the mesh axis that splits each axis.
        "weights": [[v.path, list(v.shape), axes_of(v)] for v in model.trainable_variables],
    }


def axes_of(variable):
    if isinstance(variable, SplitVariable):
        return list(variable.split.axes)
    return [None] * len(variable.shape)
