"""The routing algorithms by name, and what the layers know of each.

An algorithm is a function `(scores_GSE, probabilities_GSE, mask_GS, capacity, **options)` that
returns a `placement.Placement`. It runs on each core, on the groups that the core holds:

- `scores_GSE`: float32 tensor. The router's logits, with noise if the layer adds any.
- `probabilities_GSE`: float32 tensor. The softmax of the logits.
- `mask_GS`: bool tensor. False tokens are padding, and take no slot.
- `capacity`: int, or int32 scalar tensor where a group's size is known only at run time. The
  slots of each expert. `None` for no limit, if the algorithm is token-wise.
- `options`: the arguments of `SwitchDense` in `OPTIONS` that the function has arguments for.
"""

import inspect
import typing

import keras

from keras_switch.layers.expert_choice import expert_choice
from keras_switch.layers.token_choice import check as check_token_choice
from keras_switch.layers.token_choice import token_choice

OPTIONS = ("num_selected_experts", "overflow", "priority")


class Algorithm(typing.NamedTuple):
    """A row of the table.

    Attributes:
        place: Callable. The function, as described above.
        is_token_wise: bool. Whether the choice of a token's experts depends on no other token.
            Then the capacity is a limit: another one in evaluation, and none where nothing may
            be dropped. Otherwise it is what an expert takes, always by `capacity_factor`.
        balances: bool. Whether training adds the load balancing loss.
        not_causal: Pairs of an option and a value with which later tokens decide on earlier
            ones, which a causal block refuses. It refuses all that is not token-wise.
        check: Callable of the options, which checks them together.
    """

    place: typing.Callable
    is_token_wise: bool
    balances: bool
    not_causal: tuple = ()
    check: typing.Callable | None = None

    @property
    def options(self):
        """Those of `OPTIONS` that the function takes."""
        parameters = list(inspect.signature(self.place).parameters)
        return tuple(name for name in OPTIONS if name in parameters[4:])

    @property
    def fixed(self):
        """The values of arguments of `SwitchDense` that have no meaning here, the default first."""
        overflow = ("drop", "dropless") if self.is_token_wise else ("drop",)
        fixed = {"num_selected_experts": (1,), "overflow": overflow, "priority": ("position",)}
        fixed = {name: values for name, values in fixed.items() if name not in self.options}
        if not self.balances:
            fixed["balance_loss_weight"] = (0.01, 0.0)
            fixed["balance_over"] = ("group",)
        if not self.is_token_wise:
            fixed["eval_capacity_factor"] = (2.0, None)
        return fixed


ALGORITHMS = {
    "token_choice": Algorithm(
        token_choice,
        is_token_wise=True,
        balances=True,
        not_causal=(("priority", "probability"),),
        check=check_token_choice,
    ),
    "expert_choice": Algorithm(expert_choice, is_token_wise=False, balances=False),
}
DEFAULT = "token_choice"


def find(routing):
    """Returns the `Algorithm` of a name, or of a user's own function or object.

    Args:
        routing: What `resolve` returns. A callable that is token-wise or balances has the
            attributes `is_token_wise` and `balances`.

    Raises:
        ValueError: If there is none of this name, or the function takes other arguments.
    """
    if isinstance(routing, str) and routing in ALGORITHMS:
        return ALGORITHMS[routing]
    if not callable(routing) or isinstance(routing, type):
        names = ", ".join(map(repr, ALGORITHMS))
        raise ValueError(
            f"`routing` must be one of {names}, or a function with the same arguments and result. "
            f"Received: routing={routing!r}"
        )
    facts = [bool(getattr(routing, name, False)) for name in ("is_token_wise", "balances")]
    algorithm = Algorithm(routing, *facts)
    try:
        signature = inspect.signature(routing)
        signature.bind(*range(4), **dict.fromkeys(algorithm.options))
    except (TypeError, ValueError) as error:
        raise ValueError(
            "A `routing` function takes `(scores_GSE, probabilities_GSE, mask_GS, capacity)`, and "
            f"of {', '.join(OPTIONS)} those that it names. Received: routing={routing!r}: {error}"
        ) from None
    return algorithm


def resolve(routing):
    """Returns a user's own function or object of what `serialize` made of it.

    Keras would import whatever a file names; here only what is registered is found.
    """
    if not isinstance(routing, dict):
        return routing
    is_function = routing.get("class_name") == "function"
    name = routing.get("config" if is_function else "registered_name")
    found = keras.saving.get_registered_object(name)
    if found is None:
        raise ValueError(
            "The `routing` of a saved layer must be registered before it is loaded: import the "
            f"module that does. Received: routing={name!r}"
        )
    if not isinstance(found, type):
        return found
    config = keras.saving.deserialize_keras_object(routing["config"])
    return found.from_config(config) if hasattr(found, "from_config") else found(**config)


def serialize(routing):
    """Returns what a config holds of the argument `routing`: a name, or Keras's dictionary."""
    if isinstance(routing, str | dict):
        return routing
    kept = routing if inspect.isfunction(routing) else type(routing)
    if keras.saving.get_registered_object(keras.saving.get_registered_name(kept)) is None:
        raise ValueError(
            "A `routing` function, or the class of an object, must be registered to be saved: "
            'decorate it with `@keras.saving.register_keras_serializable("my_package")`. '
            f"Received: routing={routing!r}"
        )
    return keras.saving.serialize_keras_object(routing)


def serialize_switch(switch):
    """Returns what a config holds of a dictionary of arguments of `SwitchDense`."""
    switch = dict(switch)
    if "routing" in switch:
        switch["routing"] = serialize(switch["routing"])
    return keras.saving.serialize_keras_object(switch)


def check_switch(switch, causal, advice=""):
    """Checks the algorithm of a block, and that a causal one lets no later token decide.

    Args:
        switch: Dictionary of arguments of `SwitchDense`.
        causal: bool.
        advice: string. What to do about it, for the message.
    """
    routing = resolve(switch.get("routing", DEFAULT))
    algorithm = find(routing)
    refused = [pair for pair in algorithm.not_causal if switch.get(pair[0]) == pair[1]]
    if not algorithm.is_token_wise:
        refused = [("routing", routing)]
    if causal and refused:
        name, value = refused[0]
        raise ValueError(
            f"A causal block cannot have `{name}={value!r}`: later tokens would decide which "
            f"earlier ones find room.{advice} Received: causal=True, switch={switch}"
        )
