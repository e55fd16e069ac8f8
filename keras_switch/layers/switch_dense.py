"""The Switch layer: one expert a token."""

import keras
from keras import ops

from keras_switch import backend
from keras_switch.layers import checks
from keras_switch.layers import dispatch
from keras_switch.layers import grouping
from keras_switch.layers import noise
from keras_switch.layers import parallelism
from keras_switch.layers import routing
from keras_switch.layers import routing_figures
from keras_switch.layers import scopes
from keras_switch.layers.dtypes import default_dtype


@keras.saving.register_keras_serializable(package="keras_switch")
class SwitchDense(keras.layers.Layer):
    """Feed-forward layer of many experts, of which each token uses one.

    A router picks each token's expert, `i = argmax p(x)` with `p = softmax(x W_r)`, and
    the output is `p_i(x) * E_i(x)`, where `E_i(x) = activation(x W_in_i) W_out_i`.
    An expert takes at most its capacity of tokens from each group of tokens,
    `max(min(S, int(S * factor / num_experts)), min_capacity)` of `S`. A token that finds
    no room gives exactly 0, which a residual connection carries on. Masked tokens also
    give 0, take no slot, and count in no loss and no figure.

    The router computes in float32, everything else in the layer's dtype: bfloat16 with
    float32 variables, unless `dtype` or the global policy says otherwise.

    Args:
        num_experts: int. Number of experts.
        intermediate_dim: int. Hidden width of each expert.
        activation: string or callable. Activation of the hidden layer.
        gated: bool. Whether the hidden layer is `activation(x W_gate) * (x W_in)`.
        num_selected_experts: int. Experts of each token. With more than one, the gates
            are scaled to a sum of one, and every first choice is placed before any
            second one. The capacity is not multiplied.
        capacity_factor: float. Slots over tokens in training.
        eval_capacity_factor: float. Slots over tokens otherwise.
        min_capacity: int. The smallest capacity.
        overflow: `"drop"`; `"reroute"`, where a token that finds no room tries its next
            choices; or `"dropless"`, where there is no capacity. `"reroute"` takes one
            selected expert.
        priority: `"position"`, where earlier tokens win the slots, or `"probability"`,
            where likelier ones do.
        exploration: What the router does in training only: `"jitter"` multiplies its
            input by noise in `[1 - jitter, 1 + jitter)`; `"input_dropout"` drops parts of
            its input; `"sample"` samples the expert from `p`; `"argmax"` does nothing.
        jitter: float. Size of the jitter.
        input_dropout: float. Rate of the router's input dropout.
        balance_loss_weight: float. Weight of the load balancing loss.
        z_loss_weight: float. Weight of the router's z-loss.
        expert_dropout: float. Dropout rate of the experts' hidden activations.
        kernel_initializer: Initializer of the experts' kernels. Defaults to a truncated
            normal of variance `0.1 / fan_in`, where the fan-in is that of one expert.
        router_initializer: Initializer of the router. Defaults to `normal(0.02)`.
        num_groups: int. Number of groups. Tokens are padded to a multiple. Defaults to
            one group of all tokens.
        group_size: int, the size of a group (tokens are padded to a multiple), or
            `"row"` for one group per batch row.
        expert_capacity: int. Absolute capacity, in place of both factors.
        output_dim: int. Width of the output. Defaults to the width of the input.
        routing_metrics: bool. Whether to keep routing figures, which show in the logs of
            `fit` on TensorFlow, and by the `RoutingMetrics` callback on JAX.
        seed: int. Seed of the noise.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Tensor of shape `(batch, ..., dim)`, of rank 2 or more.
        mask: Optional boolean tensor of shape `(batch, ...)`. False tokens are padding.
        training: bool. Enables noise, and adds the losses. Defaults to `None`.

    Input shape:
        `(batch, ..., dim)`

    Output shape:
        `(batch, ..., output_dim)`

    Raises:
        ValueError: If an argument, the input or the mask is not as described.

    Example:
    >>> SwitchDense(num_experts=4, intermediate_dim=8)(keras.ops.ones((2, 6, 4))).shape
    TensorShape([2, 6, 4])

    Reference:
    - [Fedus et al., 2021](https://arxiv.org/abs/2101.03961), section 2
    """

    def __init__(
        self,
        num_experts,
        intermediate_dim,
        *,
        activation="relu",
        gated=False,
        num_selected_experts=1,
        capacity_factor=1.25,
        eval_capacity_factor=2.0,
        min_capacity=4,
        overflow="drop",
        priority="position",
        exploration="jitter",
        jitter=0.01,
        input_dropout=0.1,
        balance_loss_weight=0.01,
        z_loss_weight=0.0,
        expert_dropout=0.0,
        kernel_initializer=None,
        router_initializer=None,
        num_groups=None,
        group_size=None,
        expert_capacity=None,
        output_dim=None,
        routing_metrics=True,
        seed=None,
        dtype=None,
        **kwargs,
    ):
        super().__init__(dtype=default_dtype(dtype), **kwargs)
        self.num_experts = num_experts
        self.intermediate_dim = intermediate_dim
        self.activation = keras.activations.get(activation)
        self.gated = gated
        self.num_selected_experts = num_selected_experts
        self.capacity_factor = capacity_factor
        self.eval_capacity_factor = eval_capacity_factor
        self.min_capacity = min_capacity
        self.overflow = overflow
        self.priority = priority
        self.exploration = exploration
        self.jitter = jitter
        self.input_dropout = input_dropout
        self.balance_loss_weight = balance_loss_weight
        self.z_loss_weight = z_loss_weight
        self.expert_dropout = expert_dropout
        self.kernel_initializer = keras.initializers.get(
            kernel_initializer
            or keras.initializers.VarianceScaling(
                0.1, mode="fan_in", input_axes=[1], output_axes=[2], seed=seed
            )
        )
        self.router_initializer = keras.initializers.get(
            router_initializer or keras.initializers.RandomNormal(0.0, 0.02, seed=seed)
        )
        self.num_groups = num_groups
        self.group_size = group_size
        self.expert_capacity = expert_capacity
        self.output_dim = output_dim
        self.routing_metrics = routing_metrics
        self.seed = seed
        self._validate()
        self.router = keras.layers.Dense(
            num_experts,
            use_bias=False,
            kernel_initializer=self.router_initializer,
            dtype="float32",
            name="router",
        )
        self.seed_generator = keras.random.SeedGenerator(seed)
        self._shows_figures = False
        self.supports_masking = True

    def _validate(self):
        for name in ("num_experts", "intermediate_dim", "num_selected_experts", "min_capacity"):
            checks.check_positive_integer(name, getattr(self, name))
        for name in ("num_groups", "expert_capacity", "output_dim"):
            if getattr(self, name) is not None:
                checks.check_positive_integer(name, getattr(self, name))
        for name in ("capacity_factor", "eval_capacity_factor"):
            checks.check_positive_number(name, getattr(self, name))
        for name in ("balance_loss_weight", "z_loss_weight"):
            checks.check_number(name, getattr(self, name), 0)
        for name in ("jitter", "input_dropout", "expert_dropout"):
            checks.check_number(name, getattr(self, name), 0, 1)
        for name in ("gated", "routing_metrics"):
            checks.check_bool(name, getattr(self, name))
        checks.check_choice("overflow", self.overflow, ("drop", "reroute", "dropless"))
        checks.check_choice("priority", self.priority, ("position", "probability"))
        explorations = ("jitter", "sample", "input_dropout", "argmax")
        checks.check_choice("exploration", self.exploration, explorations)
        if self.group_size not in (None, "row"):
            checks.check_positive_integer("group_size", self.group_size)
        if self.group_size is not None and self.num_groups is not None:
            raise ValueError(
                "`num_groups` and `group_size` cannot both be given. Received: "
                f"num_groups={self.num_groups}, group_size={self.group_size!r}"
            )
        if self.num_selected_experts > self.num_experts:
            raise ValueError(
                "`num_selected_experts` must be at most `num_experts`. Received: "
                f"num_selected_experts={self.num_selected_experts}, "
                f"num_experts={self.num_experts}"
            )
        if self.overflow == "reroute" and self.num_selected_experts > 1:
            raise ValueError(
                '`overflow="reroute"` needs `num_selected_experts=1`. Received: '
                f"num_selected_experts={self.num_selected_experts}"
            )

    def build(self, inputs_shape):
        if len(inputs_shape) < 2 or inputs_shape[-1] is None:
            raise ValueError(
                "`SwitchDense` needs inputs of rank 2 or more, `(batch, ..., dim)`, whose last "
                f"dimension is known. Received: inputs.shape={tuple(inputs_shape)}"
            )
        dim = inputs_shape[-1]
        self.parallelism = parallelism.active()
        self.router.build((None, dim))
        num_experts, hidden_dim = self.num_experts, self.intermediate_dim
        self.kernel_in = self._add_kernel("kernel_in", (num_experts, dim, hidden_dim))
        if self.gated:
            self.kernel_gate = self._add_kernel("kernel_gate", (num_experts, dim, hidden_dim))
        output_dim = self.output_dim or dim
        self.kernel_out = self._add_kernel("kernel_out", (num_experts, hidden_dim, output_dim))
        if self.routing_metrics:
            self.routing_totals = self.add_weight(
                name="routing_totals",
                shape=(1 + len(routing_figures.SCALARS) + num_experts,),
                initializer="zeros",
                dtype="float32",
                trainable=False,
                autocast=False,
            )
            if keras.backend.backend() == "tensorflow":
                self._metric = routing_figures.RoutingMetric(self._logs, self.reset_figures)

    def _add_kernel(self, name, shape):
        initializer = self.kernel_initializer
        if isinstance(initializer, keras.initializers.Initializer):
            initializer = initializer.clone()
        return self.add_weight(name=name, shape=shape, initializer=initializer)

    def call(self, inputs, mask=None, training=None):
        self._check_call(inputs, mask)
        x_GSD, mask_GS = self._group(inputs, mask)
        record, plan, first_GS = self._route(x_GSD, mask_GS, training)
        if self._is_dropless():
            outputs_GSD = self._compute_dropless(x_GSD, plan, record.gates, training)
        else:
            outputs_GSD = self._compute(x_GSD, plan, record.gates, training)
        if training:
            self._add_losses_and_figures(record, first_GS, mask_GS)
        self._shows_figures = bool(training) and self.routing_metrics
        return grouping.ungroup(outputs_GSD, ops.shape(inputs)[:-1])

    def route(self, inputs, mask=None, training=None):
        """Returns the `Routing` of the inputs, computing no expert.

        Args:
            inputs: Tensor of shape `(batch, ..., dim)`.
            mask: Optional boolean tensor of shape `(batch, ...)`.
            training: bool. Whether to add noise and to use the training capacity.

        Returns:
            `keras_switch.layers.Routing`, with the leading dimensions of `inputs`.
        """
        inputs = ops.convert_to_tensor(inputs, dtype=self.compute_dtype)
        if not self.built:
            self.build(inputs.shape)
        self._check_call(inputs, mask)
        record, _, _ = self._route(*self._group(inputs, mask), training)
        shape = ops.shape(inputs)[:-1]
        return routing.Routing(*(grouping.ungroup(x, shape) for x in record))

    def figures(self):
        """Averages over the training steps since the last reset.

        Returns:
            Dictionary of floats: `dropped`, the fraction of tokens that no expert took;
            `busiest`, the load of the busiest expert over an even share; `entropy` of
            the router, in nats; `balance_loss` and `z_loss`, not weighted; and of
            `load`, an array with each expert's share of the tokens.
        """
        if not self.routing_metrics:
            raise ValueError("This layer keeps no figures: `routing_metrics` is False.")
        figures = routing_figures.averages(ops.convert_to_numpy(self.routing_totals))
        figures = {name: ops.convert_to_numpy(value) for name, value in figures.items()}
        return {name: x if name == "load" else float(x) for name, x in figures.items()}

    def reset_figures(self):
        """Starts the averages of `figures` anew."""
        self.routing_totals.assign(ops.zeros(self.routing_totals.shape))

    def _logs(self):
        """The scalar figures under names that are unique in a model."""
        if not self._shows_figures:
            return {}
        figures = routing_figures.averages(ops.convert_to_tensor(self.routing_totals))
        return {f"{self.path}/{name}": figures[name] for name in routing_figures.SCALARS}

    def _is_dropless(self):
        return self.overflow == "dropless" or scopes.is_dropless()

    def _check_call(self, inputs, mask):
        dtype = keras.backend.standardize_dtype(inputs.dtype)
        if "float" not in dtype:
            raise ValueError(
                "`SwitchDense` needs floating point inputs. Embed or cast them first. "
                f"Received: inputs.dtype={dtype}"
            )
        if self.group_size == "row" and len(inputs.shape) < 3:
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

    def _group(self, inputs, mask):
        x_GSD, mask_GS = grouping.group(inputs, mask, self.num_groups, self.group_size)
        if mask is not None:
            # Whatever padding holds, even NaN, must not reach a gradient.
            x_GSD = ops.where(mask_GS[..., None], x_GSD, ops.zeros((), x_GSD.dtype))
        return self.parallelism.group(x_GSD), self.parallelism.group(mask_GS)

    def _route(self, x_GSD, mask_GS, training):
        """Returns the groups' `Routing`, the `Plan` of their slots, and first choices."""
        x_GSD = ops.cast(x_GSD, "float32")
        exploration = self.exploration if training else "argmax"
        if exploration == "jitter" and self.jitter > 0:
            x_GSD = x_GSD * noise.jitter(self.jitter, *self._positions(ops.shape(x_GSD)))
        if exploration == "input_dropout" and self.input_dropout > 0:
            x_GSD = noise.dropout(x_GSD, self.input_dropout, *self._positions(ops.shape(x_GSD)))
        logits_GSE = self.router(x_GSD)
        p_GSE = ops.exp(logits_GSE - ops.logsumexp(logits_GSE, axis=-1, keepdims=True))
        scores_GSE = p_GSE
        if exploration == "sample":
            scores_GSE = logits_GSE + noise.gumbel(*self._positions(ops.shape(logits_GSE)))
        reroutes = self.overflow == "reroute" and not self._is_dropless()
        tries = min(routing.REROUTE_STAGES, self.num_experts) if reroutes else None
        choices_GSK = routing.select(scores_GSE, tries or self.num_selected_experts)
        plan, experts_GSK = self._plan(p_GSE, choices_GSK, mask_GS, training, reroutes)
        gates_GSK = routing.gates(p_GSE, experts_GSK, self.num_selected_experts > 1)
        kept_GSK = mask_GS[..., None]
        if not self._is_dropless():
            kept_GSK = ops.transpose(plan.slots_GKS, (0, 2, 1)) >= 0
        kept_GSK = ops.broadcast_to(kept_GSK, ops.shape(experts_GSK))
        record = routing.Routing(logits_GSE, p_GSE, experts_GSK, gates_GSK, kept_GSK)
        return record, plan, choices_GSK[..., 0]

    def _plan(self, p_GSE, choices_GSK, mask_GS, training, reroutes):
        """Returns the `Plan`, and the expert that each entry tried last."""
        if self._is_dropless():
            return dispatch.plan_dropless(choices_GSK, mask_GS, self.num_experts), choices_GSK
        size = ops.shape(mask_GS)[1]
        factor = self.capacity_factor if training else self.eval_capacity_factor
        capacity = self.expert_capacity or routing.expert_capacity(
            size, factor, self.num_experts, self.min_capacity
        )
        likelihood_GSK = None
        if self.priority == "probability":
            likelihood_GSK = routing.gates(p_GSE, choices_GSK, renormalise=False)
        args = (choices_GSK, mask_GS, self.num_experts, capacity, likelihood_GSK)
        if reroutes:
            return dispatch.plan_with_rerouting(*args)
        return dispatch.plan(*args), choices_GSK

    def _positions(self, shape):
        """Seed and indices of a tensor `(G, rows, columns)`, for `noise`."""
        group, row, column = (ops.arange(size, dtype="int32") for size in shape)
        return self.seed_generator.next(), group[:, None, None], row[:, None], column

    def _compute(self, x_GSD, plan, gates_GSK, training):
        """Runs every expert on its slots."""
        x_GND = dispatch.dispatch(x_GSD, plan)
        num_groups, num_slots, dim = ops.shape(x_GND)
        capacity = num_slots // self.num_experts
        x_GECD = ops.reshape(x_GND, (num_groups, self.num_experts, capacity, dim))
        x_EGCD = _swap_first_two(self.parallelism.to_experts(x_GECD))
        shape = ops.shape(x_EGCD)
        positions = None
        if training and self.expert_dropout > 0:
            seed, group, row, column = self._positions(
                (num_groups, num_slots, self.intermediate_dim)
            )
            row_EGC1 = ops.reshape(row, (self.num_experts, 1, capacity, 1))
            positions = (seed, group[None], row_EGC1, column)
        x_END = ops.reshape(x_EGCD, (shape[0], -1, dim))
        y_END = self._experts(x_END, ops.matmul, positions, shape[:3])
        y_EGCD = ops.reshape(y_END, (*shape[:3], y_END.shape[-1]))
        y_GECD = self.parallelism.to_tokens(_swap_first_two(y_EGCD))
        y_GND = ops.reshape(y_GECD, (num_groups, num_slots, y_END.shape[-1]))
        return dispatch.combine(y_GND, plan, gates_GSK)

    def _compute_dropless(self, x_GSD, plan, gates_GSK, training):
        """Runs every expert on its own rows, however many they are."""
        num_groups, size, dim = ops.shape(x_GSD)
        x_ND = dispatch.dispatch(ops.reshape(x_GSD, (1, -1, dim)), plan)[0]
        positions = None
        if training and self.expert_dropout > 0:
            num_tokens = num_groups * size
            entries_N = plan.entries_GN[0]
            row_N = entries_N // num_tokens * size + entries_N % size
            group_N = entries_N % num_tokens // size
            column = ops.arange(self.intermediate_dim, dtype="int32")
            positions = (self.seed_generator.next(), group_N[:, None], row_N[:, None], column)

        def matmul(x, kernels):
            return backend.grouped_matmul(x, kernels, plan.counts_GE[0])

        y_ND = self._experts(x_ND, matmul, positions, ops.shape(x_ND)[:1])
        gates_1TK = ops.reshape(gates_GSK, (1, -1, self.num_selected_experts))
        y_1TD = dispatch.combine(y_ND[None], plan, gates_1TK)
        return ops.reshape(y_1TD, (num_groups, size, y_ND.shape[-1]))

    def _experts(self, x, matmul, dropout_positions, leading_shape):
        """`activation(x W_in) W_out` of each expert, gated if so asked."""
        hidden = matmul(x, ops.convert_to_tensor(self.kernel_in))
        if self.gated:
            gate = matmul(x, ops.convert_to_tensor(self.kernel_gate))
            hidden = self.activation(gate) * hidden
        else:
            hidden = self.activation(hidden)
        if dropout_positions is not None:
            shape = ops.shape(hidden)
            hidden = ops.reshape(hidden, (*leading_shape, shape[-1]))
            hidden = noise.dropout(hidden, self.expert_dropout, *dropout_positions)
            hidden = ops.reshape(hidden, shape)
        return matmul(hidden, ops.convert_to_tensor(self.kernel_out))

    def _add_losses_and_figures(self, record, first_GS, mask_GS):
        mask_GS = ops.cast(mask_GS, "float32")
        balance = routing.balance_loss(record.probabilities, first_GS, mask_GS)
        z = routing.z_loss(record.logits, mask_GS)
        if self.balance_loss_weight or self.z_loss_weight:
            self.add_loss(self.balance_loss_weight * balance + self.z_loss_weight * z)
        if self.routing_metrics:
            figures = routing_figures.measure(record, mask_GS, (balance, z))
            self.routing_totals.assign_add(ops.concatenate([ops.ones((1,)), figures]))

    def compute_output_shape(self, inputs_shape):
        return (*inputs_shape[:-1], self.output_dim or inputs_shape[-1])

    def compute_output_spec(self, inputs, mask=None, training=None):
        self._check_call(inputs, mask)
        shape = self.compute_output_shape(inputs.shape)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self):
        config = super().get_config()
        names = (
            "num_experts intermediate_dim gated num_selected_experts capacity_factor "
            "eval_capacity_factor min_capacity overflow priority exploration jitter "
            "input_dropout balance_loss_weight z_loss_weight expert_dropout num_groups "
            "group_size expert_capacity output_dim routing_metrics seed"
        )
        config.update({name: getattr(self, name) for name in names.split()})
        config["activation"] = keras.activations.serialize(self.activation)
        for name in ("kernel_initializer", "router_initializer"):
            config[name] = keras.initializers.serialize(getattr(self, name))
        return config


def _swap_first_two(x):
    """Transposes the first two axes; a reshape where one of them has size one."""
    shape = ops.shape(x)
    if x.shape[0] == 1 or x.shape[1] == 1:
        return ops.reshape(x, (shape[1], shape[0], *shape[2:]))
    return ops.transpose(x, (1, 0, 2, 3))
