"""The Switch layer: one expert a token, or what another routing algorithm says."""

import math

import keras
from keras import ops

from keras_switch import backend
from keras_switch import checks
from keras_switch.layers import activations
from keras_switch.layers import algorithms
from keras_switch.layers import grouping
from keras_switch.layers import initializers
from keras_switch.layers import parallelism
from keras_switch.layers import routing
from keras_switch.layers import switch_checks
from keras_switch.layers import switching
from keras_switch.layers.dtypes import at_least_float32
from keras_switch.layers.dtypes import default_dtype
from keras_switch.layers.rematerialized import Rematerialized
from keras_switch.layers.router import Router
from keras_switch.layers.routing_metrics import KeepsRoutingMetrics
from keras_switch.layers.thread_losses import ThreadLosses

_NO_SEEDS = (None, None)


@keras.saving.register_keras_serializable(package="keras_switch")
class SwitchDense(KeepsRoutingMetrics, Rematerialized, ThreadLosses, keras.layers.Layer):
    """Feed-forward layer of many experts, of which each token uses one.

    A router picks each token's expert, `i = argmax p(x)` with `p = softmax(x W_r)`, and the output
    is `p_i(x) * E_i(x)`, where `E_i(x) = activation(x W_in_i) W_out_i`. An expert takes at most its
    capacity of tokens from each group of tokens, `max(min(S, int(S * factor / num_experts)),
    min_capacity)` of `S`. A token that finds no room gives exactly 0, which a residual connection
    carries on. Masked tokens also give 0, take no slot, and count in no loss and no metric.

    The router computes in float32, everything else in the layer's dtype: bfloat16 with float32
    variables, unless `dtype` or the global policy says otherwise. On a TPU or a GPU call
    `keras_switch.tpu.highest_float32()` first: they round float32 products.

    With `routing="expert_choice"` each expert takes as many real tokens of a group as its capacity
    says (or all, if there are fewer), those with the largest `p_i(x)`. The output is the sum of
    `p_i(x) * E_i(x)` over the experts that took the token: several, or none, which gives 0. A token
    has `capacity_factor` experts on average, Zhou et al.'s `c`, in evaluation as in training, and
    in the `dropless` scope too. It needs no balance loss; `overflow`, `priority`,
    `num_selected_experts`, `eval_capacity_factor` and `balance_loss_weight` mean nothing to it. The
    other tokens of a group decide which experts a token has: so it is for encoders, and with the
    default groups an answer depends on the other rows of its batch. `group_size="row"` makes rows
    independent of each other; `expert_capacity`, also of the length that they are padded to.

    Args:
        num_experts: int. Number of experts.
        intermediate_dim: int. Hidden width of each expert.
        activation: string or callable. Activation of the hidden layer.
        gated: bool. Whether the hidden layer is `activation(x W_gate) * (x W_in)`.
        num_selected_experts: int. Experts of each token. With more than one, the gates are scaled
            to a sum of one, and every first choice is placed before any second one. The capacity
            is not multiplied.
        capacity_factor: float. Slots over tokens in training.
        eval_capacity_factor: float. Slots over tokens otherwise. `None` is no capacity there.
        min_capacity: int. The smallest capacity.
        routing: `"token_choice"`, where tokens choose experts, as described above;
            `"expert_choice"`, see below; or a function of your own, see
            `keras_switch.layers.algorithms` and `docs/guides/routing_algorithm.md`.
        overflow: `"drop"`; `"reroute"`, where a token that finds no room tries its next choices,
            for one selected expert; or `"dropless"`, where there is no capacity.
        priority: `"position"`: earlier tokens win the slots; or `"probability"`: likelier ones do.
        exploration: What the router does in training only: `"jitter"` multiplies its
            input by noise in `[1 - jitter, 1 + jitter)`; `"input_dropout"` drops parts of
            its input; `"sample"` samples the expert from `p`; `"argmax"` does nothing.
        jitter: float. Size of the jitter.
        input_dropout: float. Rate of the router's input dropout.
        balance_loss_weight: float. Weight of the load balancing loss.
        balance_over: `"group"`, a balance loss of each group's tokens, the paper's; or `"mesh"`,
            one of the tokens of all groups on all cores, with which experts specialise more.
        z_loss_weight: float. Weight of the router's z-loss.
        expert_dropout: float. Dropout rate of the experts' hidden activations.
        kernel_initializer: Initializer of the experts' kernels. Defaults to a truncated normal of
            variance `0.1 / fan_in`, where the fan-in is that of one expert.
        router_initializer: Initializer of the router. Defaults to `normal(0.02)`.
        num_groups: int. Number of groups. Tokens are padded to a multiple. Defaults to one group
            of all tokens; on a mesh, to one on each core.
        group_size: int, the size of a group (tokens are padded to a multiple), or
            `"row"` for one group per batch row.
        expert_capacity: int. Absolute capacity, in place of both factors.
        output_dim: int. Width of the output. Defaults to the width of the input.
        routing_metrics: bool. Whether to keep them: in the logs of `fit` on TensorFlow, and by the
            `RoutingMetrics` callback on JAX.
        seed: int. Seed of the noise, and of the default initializers.
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
    - [Qiu et al., 2025](https://arxiv.org/abs/2501.11873), for `balance_over="mesh"`
    - [Zhou et al., 2022](https://arxiv.org/abs/2202.09368), for expert choice
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
        routing="token_choice",
        overflow="drop",
        priority="position",
        exploration="jitter",
        jitter=0.01,
        input_dropout=0.1,
        balance_loss_weight=0.01,
        balance_over="group",
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
        self.activation = activations.get(activation)
        self.gated = gated
        self.num_selected_experts = num_selected_experts
        self.capacity_factor = capacity_factor
        self.eval_capacity_factor = eval_capacity_factor
        self.min_capacity = min_capacity
        self.routing = algorithms.resolve(routing)
        self.algorithm = algorithms.find(self.routing)
        self.overflow = overflow
        self.priority = priority
        self.exploration = exploration
        self.jitter = jitter
        self.input_dropout = input_dropout
        self.balance_loss_weight = balance_loss_weight
        self.balance_over = balance_over
        self.z_loss_weight = z_loss_weight
        self.expert_dropout = expert_dropout
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.router_initializer = keras.initializers.get(router_initializer)
        self.num_groups = num_groups
        self.group_size = group_size
        self.expert_capacity = expert_capacity
        self.output_dim = output_dim
        self.routing_metrics = routing_metrics
        self.seed = seed
        switch_checks.check_arguments(self)
        router_seed = initializers.derive(self.seed, "router")
        self.router = Router(
            self.num_experts,
            kernel_initializer=initializers.fresh(self.router_initializer)
            or keras.initializers.RandomNormal(0.0, 0.02, seed=router_seed),
            seed=initializers.derive(self.seed, "router_noise"),
            dtype=at_least_float32(self.dtype_policy),
            name="router",
        )
        self.dropout_seed = keras.random.SeedGenerator(initializers.derive(self.seed, "dropout"))
        self.outputs_dtype = self.compute_dtype  # A block's is that of its stream.
        self._runs = backend.RematRuns()
        self.supports_masking = True
        self.parallelism = parallelism.active()

    def build(self, inputs_shape):
        switch_checks.check_build(inputs_shape)
        dim = inputs_shape[-1]
        self.router.build((None, None, dim))
        shape = (self.num_experts, dim, self.intermediate_dim)
        self.kernel_in = self._add_kernel("kernel_in", shape)
        self.kernel_gate = self._add_kernel("kernel_gate", shape) if self.gated else None
        shape = (self.num_experts, self.intermediate_dim, self.output_dim or dim)
        self.kernel_out = self._add_kernel("kernel_out", shape)
        self._build_routing_metrics(self.num_experts)

    def _add_kernel(self, name, shape):
        initializer = initializers.fresh(self.kernel_initializer)
        if initializer is None:
            initializer = initializers.of_experts(initializers.derive(self.seed, name))
        return self.parallelism.add_weight(
            self,
            getattr(switching.DIMENSIONS, name),
            name=name,
            shape=shape,
            initializer=initializer,
        )

    def call(self, inputs, mask=None, training=None):
        mask = checks.as_array(mask)
        switch_checks.check_call(self, inputs, mask)
        seeds, run = self._runs.seeds(self._draw_seeds) if training else (_NO_SEEDS, "only")
        results = self._run("compute", inputs, mask, training, seeds)
        if run == "first":
            with backend.recorded():
                losses = self._run("losses", inputs, mask, training, seeds)
                self._add_losses(*losses)
        elif run == "only" and training:
            self._add_losses(results.balance, results.z)
        if training and run != "again" and self.routing_metrics:
            self._totals.add(results.metrics)
        return grouping.ungroup(results.outputs, ops.shape(inputs)[:-1])

    def route(self, inputs, mask=None, training=None):
        """Returns the `Routing` of the inputs, computing no expert.

        Args:
            inputs: Tensor of shape `(batch, ..., dim)`.
            mask: Optional boolean tensor of shape `(batch, ...)`.
            training: bool. Whether to add noise and to use the training capacity.

        Returns:
            `keras_switch.layers.Routing`, with the leading dimensions of `inputs`.
        """
        inputs, mask = checks.as_array(inputs), checks.as_array(mask)
        if not self.built:
            self.build(inputs.shape)
        switch_checks.check_call(self, inputs, mask)
        inputs = ops.convert_to_tensor(inputs, dtype=self.compute_dtype)
        seeds = self._draw_seeds() if training else _NO_SEEDS
        record = self._run("route", inputs, mask, training, seeds)
        shape = ops.shape(inputs)[:-1]
        return routing.Routing(*(grouping.ungroup(x, shape) for x in record))

    def _group(self, inputs, mask):
        num_groups = self.num_groups
        if self.group_size is None:
            num_groups = self.parallelism.num_groups(num_groups)
        elif self.group_size != "row":
            self.parallelism.check_group_size(math.prod(ops.shape(inputs)[:-1]), self.group_size)
        return grouping.group(inputs, mask, num_groups, self.group_size)

    def _run(self, method, inputs, mask, training, seeds):
        """What a method of `Switching` returns for the groups of the inputs."""
        kernels = (self.router.kernel, self.kernel_in, self.kernel_gate, self.kernel_out)
        kernels = (None if k is None else ops.convert_to_tensor(k) for k in kernels)
        weights = switching.Weights(*kernels, *seeds)
        function = getattr(switching.Switching(self, training), method)
        groups = self._group(inputs, mask)
        return self.parallelism.run(function, weights, switching.DIMENSIONS, *groups)

    def _draw_seeds(self):
        """New seeds of the router's noise and of the dropout; `None` where there is none."""
        router_seed = self.router.seed_generator.next() if self.exploration != "argmax" else None
        return router_seed, self.dropout_seed.next() if self.expert_dropout > 0 else None

    def _add_losses(self, balance_G, z_G):
        loss = switching.weighted(self, balance_G, z_G)
        if loss is not None:
            self.add_loss(ops.cast(loss, keras.config.floatx()))  # As all of Keras's losses.

    def compute_output_shape(self, inputs_shape):
        return (*inputs_shape[:-1], self.output_dim or inputs_shape[-1])

    def compute_output_spec(self, inputs, mask=None, training=None):
        switch_checks.check_call(self, inputs, checks.as_array(mask))
        shape = self.compute_output_shape(inputs.shape)
        return keras.KerasTensor(shape, dtype=self.outputs_dtype)

    def get_config(self):
        config = super().get_config()
        names = (
            "num_experts intermediate_dim gated num_selected_experts capacity_factor "
            "eval_capacity_factor min_capacity overflow priority exploration jitter "
            "input_dropout balance_loss_weight balance_over z_loss_weight expert_dropout "
            "num_groups group_size expert_capacity output_dim routing_metrics seed"
        )
        config.update({name: getattr(self, name) for name in names.split()})
        config["routing"] = algorithms.serialize(self.routing)
        config["activation"] = keras.activations.serialize(self.activation)
        for name in ("kernel_initializer", "router_initializer"):
            config[name] = keras.initializers.serialize(getattr(self, name))
        return config
