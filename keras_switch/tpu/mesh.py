"""Cores in rows and columns, and the dimensions of tensors that they share out."""

import contextlib

import keras

from keras_switch.layers import parallelism
from keras_switch.tpu import describe
from keras_switch.tpu.layout import Layout


class Mesh:
    """Splits the experts of a model over cores, by two strings of Mesh TensorFlow.

    Each core holds its own tokens and its own experts. A model that is built in the `scope` is a
    plain Keras model: `fit`, `evaluate`, `predict` and `save` do what they do on one core, with the
    same numbers. Three things are Keras's own on TensorFlow, as with any strategy: a loss over
    masked or weighted targets is divided by what each core has of them, `keras.layers.Dropout`
    drops the same places on every core, and `add_loss` of other layers than this package's is
    unsafe off TPUs.

    In `fit` every batch must divide over the cores. `evaluate` and `predict` take any number of
    rows: what does not divide is computed by each core whole, but for the experts.

    - `Mesh("batch:8", "batch:batch,experts:batch")`: each core holds 1/8 of the experts.
    - `Mesh("outer:2,inner:4", "outer_batch:outer,batch:inner,experts:inner")`: 1/4 of the experts,
      and each of them lies on two cores.
    - `Mesh("batch:4,model:2", "batch:batch,experts:batch,expert_hidden:model")`: half of the width
      of 1/4 of the experts.

    Args:
        shape: string. The axes of the mesh and their numbers of cores.
        layout: string. Rules `dimension:axis`; see `keras_switch.tpu.DIMENSIONS`.
        devices: What the mesh lies on, if not on the cores that `connect` found: a
            `tf.distribute.Strategy` on TensorFlow, a list of devices on JAX.

    Raises:
        ValueError: If a string cannot be read, or the mesh has more cores than there are.
        RuntimeError: If `connect` was not called.

    Example:
    >>> mesh = Mesh("batch:4", "batch:batch,experts:batch")
    >>> with mesh.scope():
    ...     layer = keras_switch.layers.SwitchDense(num_experts=8, intermediate_dim=16)
    ...     layer.build((None, 32))
    >>> layer.kernel_in.shape, layer.kernel_in.slices[0].shape
    (TensorShape([8, 32, 16]), TensorShape([2, 32, 16]))
    """

    def __init__(self, shape, layout, devices=None):
        self.layout = Layout(shape, layout)
        if keras.config.backend() == "tensorflow":
            from keras_switch.tpu.tensorflow.replicas import Replicas as Backend
        else:
            from keras_switch.tpu.jax.shards import Shards as Backend
        self._backend = Backend(self.layout, devices)

    def __repr__(self):
        return "Mesh({!r}, {!r})".format(*self.layout.strings)

    @contextlib.contextmanager
    def scope(self):
        """Within it, models, optimizers and metrics are made on the mesh.

        They stay there: `fit`, `evaluate` and `predict` of a model run on its mesh, or on none,
        wherever they are called.
        """
        with self._backend.scope():
            yield self

    def optimizer(self, optimizer):
        """Makes an optimizer train this mesh's models; without it, training refuses to start.

        Clipping, weight decay, averages, loss scaling and gradient accumulation give what one
        core gives.

        Args:
            optimizer: `keras.optimizers.Optimizer`, made in the `scope`: an element-wise one,
                Lamb, or `keras_switch.training.Adafactor`. On JAX any.

        Returns:
            The optimizer.

        Raises:
            ValueError: If the optimizer is built, was made elsewhere, or its step needs more of
                a weight than a core's slice.
        """
        return self._backend.optimizer(optimizer)

    def whole(self, model):
        """Returns the ordinary model, for export and generation, with the weights of a split one.

        Where a layer's `num_groups` is not given, the ordinary model makes one group of tokens
        and not one a core: where capacity binds, other tokens may find no room.

        Args:
            model: `keras.Model` that was built in the `scope` and can be made from its config.

        Returns:
            `keras.Model`, of the same class, with the same LoRA adapters, not compiled. A task of
            KerasHub has the same preprocessor, and is compiled as it is made:
            `compile(sampler=...)` it anew.

        Raises:
            ValueError: If called inside a `scope`.
        """
        with self._backend.outside(), parallelism.use(parallelism.Parallelism()):
            whole = _made_again(model)
            if model.built and not whole.built:
                whole.build_from_config(model.get_build_config())
            _enable_lora_alike(whole, model)
        for variable, split in zip(whole.variables, model.variables, strict=True):
            variable.assign(keras.ops.convert_to_numpy(split))
        return whole

    def describe(self, model):
        """Returns a table of what each core holds of a model, and what is exchanged in a step."""
        return describe.table(self.layout, self._backend.axes_of, model)


def _made_again(model):
    """A model of the same class and config. One of Keras's classes may hold unregistered layers."""
    if type(model).get_config.__module__.split(".")[0] == "keras":
        return keras.models.clone_model(model)
    config = model.get_config()
    if hasattr(model, "preprocessor"):
        config["preprocessor"] = model.preprocessor  # A config does not hold its vocabulary.
    return type(model).from_config(config)


def _enable_lora_alike(whole, model):
    """Gives a model the adapters of another one, which a config need not hold."""
    pairs = zip(model._flatten_layers(), whole._flatten_layers(), strict=True)
    for layer, own in pairs:
        if getattr(layer, "lora_enabled", False) and not own.lora_enabled:
            own.enable_lora(layer.lora_rank, lora_alpha=layer.lora_alpha)
