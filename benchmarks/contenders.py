"""The Keras layers that `layer.py` times, and their steps."""

import keras
import tensorflow as tf
from keras import ops
from keras_hub.src.models.mixtral.mixtral_decoder import MixtralSparseMoeBlock

from keras_switch.layers import SwitchDense

ROWS, LENGTH, DIM, HIDDEN = 8, 512, 256, 1024
TOKENS = ROWS * LENGTH
CAPACITY_FACTOR = 1.25


class OneHotSwitch(keras.layers.Layer):
    """The Switch layer as Mesh TensorFlow has it: tokens travel by one-hot einsums.

    One group of tokens, jitter, capacity and balance loss are those of `SwitchDense`.

    Args:
        num_experts: int. Number of experts.
        **kwargs: Base layer keyword arguments.

    Call arguments:
        inputs: Tensor of shape `(tokens, dim)`.
        training: bool. Enables jitter and adds the balance loss.
    """

    def __init__(self, num_experts, **kwargs):
        super().__init__(**kwargs)
        self.num_experts = num_experts
        self.seed_generator = keras.random.SeedGenerator(0)

    def build(self, inputs_shape):
        dim = inputs_shape[-1]
        self.router_kernel = self.add_weight(
            name="router", shape=(dim, self.num_experts), autocast=False
        )
        self.kernel_in = self.add_weight(name="kernel_in", shape=(self.num_experts, dim, HIDDEN))
        self.kernel_out = self.add_weight(name="kernel_out", shape=(self.num_experts, HIDDEN, dim))

    def call(self, inputs, training=None):
        x_GSD = inputs[None]
        router_GSD = ops.cast(x_GSD, "float32")
        if training:
            shape = ops.shape(router_GSD)
            router_GSD *= keras.random.uniform(shape, 0.99, 1.01, seed=self.seed_generator)
        p_GSE = ops.softmax(ops.matmul(router_GSD, self.router_kernel), axis=-1)
        chosen_GSE = ops.one_hot(ops.argmax(p_GSE, axis=-1), self.num_experts, dtype="float32")
        capacity = int(inputs.shape[0] * CAPACITY_FACTOR / self.num_experts)
        position_GSE = (ops.cumsum(chosen_GSE, axis=1) - chosen_GSE) * chosen_GSE
        kept_GSE = chosen_GSE * ops.cast(position_GSE < capacity, "float32")
        place_GS = ops.cast(ops.sum(position_GSE, axis=-1), "int32")
        slot_GSC = ops.one_hot(place_GS, capacity, dtype="float32")
        combine_GSEC = (p_GSE * kept_GSE)[..., None] * slot_GSC[:, :, None, :]
        dispatch_GSEC = ops.cast(combine_GSEC > 0, x_GSD.dtype)
        x_EGCD = ops.einsum("gsec,gsd->egcd", dispatch_GSEC, x_GSD)
        hidden_EGCF = ops.relu(ops.einsum("egcd,edf->egcf", x_EGCD, self.kernel_in))
        y_EGCD = ops.einsum("egcf,efd->egcd", hidden_EGCF, self.kernel_out)
        if training:
            f_GE, P_GE = ops.mean(chosen_GSE, axis=1), ops.mean(p_GSE, axis=1)
            self.add_loss(0.01 * self.num_experts * ops.mean(ops.sum(f_GE * P_GE, axis=-1)))
        return ops.einsum("gsec,egcd->gsd", ops.cast(combine_GSEC, y_EGCD.dtype), y_EGCD)[0]


def make(name, num_experts, dtype):
    """Returns a contender's layer, built, and its inputs, and sets the global policy."""
    keras.config.set_dtype_policy(dtype)
    shape = (TOKENS, DIM)
    if name in ("switch", "dropless"):
        overflow = "drop" if name == "switch" else "dropless"
        layer = SwitchDense(
            num_experts,
            HIDDEN,
            capacity_factor=CAPACITY_FACTOR,
            eval_capacity_factor=CAPACITY_FACTOR,
            overflow=overflow,
            dtype=dtype,
        )
    elif name == "one_hot":
        layer = OneHotSwitch(num_experts)
    elif name == "kerashub":
        shape = (ROWS, LENGTH, DIM)
        layer = MixtralSparseMoeBlock(DIM, HIDDEN, num_experts, top_k=1)
    else:
        if name == "slots":
            shape = (num_experts * int(TOKENS * CAPACITY_FACTOR / num_experts), DIM)
        layer = keras.Sequential(
            [
                keras.layers.Dense(HIDDEN, "relu", use_bias=False),
                keras.layers.Dense(DIM, use_bias=False),
            ]
        )
    layer.build(shape)
    for variable in layer.trainable_variables:
        # A router as trained: every expert takes about as many tokens as any other.
        if "router" in variable.path:
            variable.assign(tf.random.stateless_normal(variable.shape, (0, 1), stddev=0.1))
    inputs = tf.random.stateless_normal(shape, (0, 2))
    return layer, tf.cast(inputs, layer.compute_dtype)


def make_step(layer, inputs, jit, train):
    """Returns a function that infers, or one that trains up to the gradients."""

    @tf.function(jit_compile=jit)
    def step(x):
        if not train:
            return layer(x, training=False)
        with tf.GradientTape() as tape:
            tape.watch(x)
            # KerasHub's balance loss, which `training` asks for, fails in bfloat16.
            y = layer(x, training=not isinstance(layer, MixtralSparseMoeBlock))
            y = y[0] if isinstance(y, tuple) else y
            loss = tf.reduce_mean(tf.square(tf.cast(y, tf.float32))) + sum(layer.losses)
        return tape.gradient(loss, [x, *layer.trainable_variables])

    traced = step.get_concrete_function(inputs)
    return lambda: traced(inputs)
