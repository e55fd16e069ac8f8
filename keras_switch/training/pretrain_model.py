"""The model and the optimizer of a pre-training run, on one core or on a mesh."""

import contextlib

import keras

from keras_switch import tpu
from keras_switch.models import SwitchBackbone
from keras_switch.models import SwitchSeq2SeqLM
from keras_switch.tpu import cores
from keras_switch.tpu.layout import Layout
from keras_switch.training.adafactor import Adafactor
from keras_switch.training.schedules import InverseSquareRoot

NATS = "nats_per_token"


def connect(config):
    """Returns the `Mesh` of a run, whose cores are connected to, or `None` for one core.

    Raises:
        ValueError: If the batch does not divide over the mesh.
    """
    if not config.mesh:
        return None
    num_cores = Layout(config.mesh, config.layout).num_cores
    if config.batch_size % num_cores:
        raise ValueError(
            f"`batch_size` must divide over the {num_cores} cores of the mesh. "
            f"Received: batch_size={config.batch_size}, mesh={config.mesh!r}"
        )
    if not cores.are_connected():
        tpu.connect(cores=num_cores)
    return tpu.Mesh(config.mesh, config.layout)


def build_and_compile(config, vocabulary_size, mesh=None):
    """Returns the compiled model.

    Args:
        config: `PretrainConfig`.
        vocabulary_size: int.
        mesh: `keras_switch.tpu.Mesh`, or `None` for one core.
    """
    with mesh.scope() if mesh else contextlib.nullcontext():
        backbone = SwitchBackbone(
            vocabulary_size,
            config.num_layers,
            config.num_heads,
            config.hidden_dim,
            config.intermediate_dim,
            num_experts=config.num_experts,
            dropout=config.dropout,
            switch={
                "capacity_factor": config.capacity_factor,
                "balance_loss_weight": config.balance_loss_weight,
                "balance_over": config.balance_over,
                "z_loss_weight": config.router_z_loss_weight,
                "expert_dropout": config.expert_dropout,
            },
            dtype=config.dtype,
            seed=config.seed,
        )
        model = SwitchSeq2SeqLM(backbone)
        optimizer = make_optimizer(config)
        if mesh:
            optimizer = mesh.optimizer(optimizer)
        # The loss of training also has the z-loss and the routers' losses in it, that of
        # validation has not.
        nats = keras.metrics.SparseCategoricalCrossentropy(NATS, from_logits=True)
        # Without XLA TensorFlow starts at once, and is as fast on a CPU; a TPU compiles anyway.
        jit_compile = "auto" if keras.config.backend() == "jax" else False
        model.compile(optimizer, sampler="greedy", weighted_metrics=[nats], jit_compile=jit_compile)
    return model


def make_optimizer(config):
    if config.optimizer == "adafactor":
        return Adafactor(make_rate(config))
    return keras.optimizers.Adam(make_rate(config), beta_2=0.98, clipnorm=1.0)


def make_rate(config):
    """The learning rate of the step."""
    if config.schedule == "inverse_sqrt":
        return InverseSquareRoot(config.learning_rate, max(1, config.warmup_steps))
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        warmup_target=config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=max(1, config.epochs * config.steps_per_epoch - config.warmup_steps),
        alpha=0.01,
    )
