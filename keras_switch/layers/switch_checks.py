"""Checks of what `SwitchDense` is given: each raises a `ValueError` that says what it got."""

import keras

from keras_switch import checks
from keras_switch.layers import placement
from keras_switch.layers import router


def check_arguments(layer):
    """Checks the constructor's arguments, which are attributes of the layer by now: plain ones."""
    integers = ["num_experts", "intermediate_dim", "num_selected_experts", "min_capacity"]
    optional = ("num_groups", "expert_capacity", "output_dim")
    integers += [name for name in optional if getattr(layer, name) is not None]
    if layer.group_size not in (None, "row"):
        integers.append("group_size")
    checks.check_attributes(layer, checks.check_positive_integer, integers)
    factors = ["capacity_factor"]
    if layer.eval_capacity_factor is not None:
        factors.append("eval_capacity_factor")
    checks.check_attributes(layer, checks.check_positive_number, factors)
    weights = ("balance_loss_weight", "z_loss_weight")
    checks.check_attributes(layer, checks.check_number, weights, 0)
    rates = ("jitter", "input_dropout", "expert_dropout")
    checks.check_attributes(layer, checks.check_number, rates, 0, 1)
    checks.check_attributes(layer, checks.check_bool, ("gated", "routing_metrics"))
    layer.seed = checks.check_seed(layer.seed)
    checks.check_choice("overflow", layer.overflow, ("drop", "reroute", "dropless"))
    checks.check_choice("priority", layer.priority, ("position", "probability"))
    checks.check_choice("balance_over", layer.balance_over, ("group", "mesh"))
    checks.check_choice("exploration", layer.exploration, router.EXPLORATIONS)
    _check_together(layer)


def _check_together(layer):
    if layer.group_size is not None and layer.num_groups is not None:
        raise ValueError(
            "`num_groups` and `group_size` cannot both be given. Received: "
            f"num_groups={layer.num_groups}, group_size={layer.group_size!r}"
        )
    if layer.num_selected_experts > layer.num_experts:
        raise ValueError(
            "`num_selected_experts` must be at most `num_experts`. Received: "
            f"num_selected_experts={layer.num_selected_experts}, num_experts={layer.num_experts}"
        )
    _check_routing(layer)


def _check_routing(layer):
    """Checks the arguments that mean something to some routing algorithms only."""
    algorithm = layer.algorithm
    for name, values in algorithm.fixed.items():
        value = getattr(layer, name)
        if value not in values:
            raise ValueError(
                f"`{name}` means nothing with `routing={layer.routing!r}`. Leave it at "
                f"{values[0]!r}. Received: {name}={value!r}"
            )
    if algorithm.check is not None:
        algorithm.check(**{name: getattr(layer, name) for name in algorithm.options})


def check_placement(layer, placed):
    """Checks what a routing algorithm returns."""
    if not isinstance(placed, placement.Placement):
        raise ValueError(
            "A `routing` function must return a `keras_switch.layers.placement.Placement`. "
            f"Received: routing={layer.routing!r}, which returned {placed!r}"
        )
    shapes = [tuple(x.shape) for x in placed[:2]]
    selected = [shape[-1] for shape in shapes]
    if placed.plan is not None:
        selected.append(placed.plan.slots_GKS.shape[1])
    if any(len(shape) != 3 for shape in shapes) or len(set(selected)) > 1:
        raise ValueError(
            "A `routing` function must return experts and gates of the shape `(G, S, K)`, and a "
            f"plan for as many choices. Received: routing={layer.routing!r}, which returned "
            f"experts and gates of the shapes {shapes}, and choices: {selected}"
        )


def check_build(inputs_shape):
    if len(inputs_shape) < 2 or inputs_shape[-1] is None:
        raise ValueError(
            "`SwitchDense` needs inputs of rank 2 or more, `(batch, ..., dim)`, whose last "
            f"dimension is known. Received: inputs.shape={tuple(inputs_shape)}"
        )


def check_call(layer, inputs, mask):
    dtype = keras.backend.standardize_dtype(inputs.dtype)
    if "float" not in dtype:
        raise ValueError(
            "`SwitchDense` needs floating point inputs. Embed or cast them first. "
            f"Received: inputs.dtype={dtype}"
        )
    if layer.built and inputs.shape[-1] != layer.router.kernel.shape[0]:
        raise ValueError(
            "The inputs must be as wide as those that the layer was built for, "
            f"{layer.router.kernel.shape[0]}. Received: inputs.shape={tuple(inputs.shape)}"
        )
    if layer.group_size == "row" and len(inputs.shape) < 3:
        raise ValueError(
            '`group_size="row"` needs inputs of rank 3 or more, `(batch, length, dim)`. '
            f"Received: inputs.shape={tuple(inputs.shape)}"
        )
    if mask is None:
        return
    expected, received = tuple(inputs.shape[:-1]), tuple(mask.shape)
    pairs = zip(expected, received)
    clash = any(None not in pair and pair[0] != pair[1] for pair in pairs)
    if len(expected) != len(received) or clash:
        raise ValueError(
            "`mask` must have the shape of the inputs without the last dimension, "
            f"{expected}. Received: mask.shape={received}"
        )
