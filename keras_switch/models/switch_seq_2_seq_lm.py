"""A Switch Transformer that writes text."""

import keras
import keras_hub
import numpy as np
from keras import ops

from keras_switch import checks
from keras_switch.layers import parallelism
from keras_switch.models import cached_decoding
from keras_switch.models import generate_inputs
from keras_switch.models import losses
from keras_switch.models import preset_folders
from keras_switch.models.switch_backbone import SwitchBackbone
from keras_switch.models.switch_seq_2_seq_lm_preprocessor import SwitchSeq2SeqLMPreprocessor
from keras_switch.models.upcycle import to_dense
from keras_switch.models.upcycle import upcycle


@keras.saving.register_keras_serializable(package="keras_switch")
class SwitchSeq2SeqLM(keras_hub.models.Seq2SeqLM):
    """A `SwitchBackbone` with the logits of the next token.

    `fit` trains it, `compile(sampler=...)` chooses how `generate` writes. The default loss is
    the cross-entropy, the mean over the targets whose `sample_weight` is not 0, also where they
    lie on many cores. In training the logits' z-loss and the routers' losses are added.

    `generate` keeps the keys and values of what was read, and drops no token of any
    expert: a text's continuation does not depend on its batch. It never writes padding, the
    id 0, which no model is trained to write. A model that is split
    by a mesh generates through `mesh.whole(model)` on TensorFlow, and as it is on JAX.

    Args:
        backbone: `SwitchBackbone`.
        preprocessor: `SwitchSeq2SeqLMPreprocessor`. `None` takes and gives token ids.
        z_loss_weight: float. Weight of the mean of `logsumexp(logits) ** 2`.
        **kwargs: `name`, `trainable` and `compile`.

    Inputs are those of the backbone. Outputs are float32 logits
    `(batch, decoder_length, vocabulary_size)`.

    Raises:
        ValueError: If an argument is not as described.

    Example:
    >>> model = SwitchSeq2SeqLM.from_preset("switch_tiny_8", load_weights=False)
    >>> model.compile(sampler="greedy")
    >>> ids, starts = np.ones((1, 7), "int32"), np.zeros((1, 5), "int32")
    >>> outputs = model.generate(
    ...     {"encoder_token_ids": ids, "encoder_padding_mask": ids,
    ...      "decoder_token_ids": starts, "decoder_padding_mask": np.eye(1, 5)},
    ...     stop_token_ids=None)
    >>> outputs["decoder_token_ids"].shape
    (1, 5)

    Reference:
    - [Fedus et al., 2021](https://arxiv.org/abs/2101.03961)
    """

    backbone_cls = SwitchBackbone
    preprocessor_cls = SwitchSeq2SeqLMPreprocessor

    def __init__(self, backbone, preprocessor=None, z_loss_weight=1e-4, **kwargs):
        checks.check_keywords(kwargs, preset_folders.TASK_KEYWORDS)
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.z_loss_weight = checks.check_number("z_loss_weight", z_loss_weight, 0)
        self.parallelism = parallelism.active()
        self._z_loss = losses.LogitsZLoss()
        outputs = backbone.logits(backbone(backbone.input)["decoder_sequence_output"])
        super().__init__(inputs=backbone.input, outputs=outputs, **kwargs)

    def compile(self, optimizer="auto", loss="auto", **kwargs):
        """Configures training and generation.

        Args:
            optimizer: `"auto"`, Adam with a rate of 2e-5, or an optimizer of Keras.
            loss: `"auto"`, the mean cross-entropy over real targets, or a loss of Keras,
                which is reduced by Keras's own rules.
            **kwargs: `sampler`, `weighted_metrics`, and other arguments of
                `keras_hub.models.CausalLM.compile`.

        Raises:
            ValueError: If the model is on a mesh and the loss on another one or none, or vice
                versa.
        """
        if loss == "auto":
            with parallelism.use(self.parallelism):
                loss = losses.TargetCrossEntropy()
        losses.check_made_with(loss, self.parallelism)
        super().compile(optimizer, loss, **kwargs)

    def compile_from_config(self, config):
        kept = {"sampler": self.sampler} if self.compiled else {}
        self.compile(**{**kept, **keras.saving.deserialize_keras_object(config)})
        self.optimizer.build(self.trainable_variables)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        if training and self.z_loss_weight:
            loss = loss + self.z_loss_weight * self._z_loss(y, y_pred, sample_weight)
        return loss

    upcycle = upcycle
    to_dense = to_dense

    def generate(self, inputs, max_length=None, stop_token_ids="auto", strip_prompt=False):
        """Writes what follows texts, or with no preprocessor rows of ids.

        Args:
            inputs: A text, a list or an array of texts, a `tf.data.Dataset`, or a dictionary of
                `encoder_text` and `decoder_text`, the prompts to go on from. With no
                preprocessor, the dictionary of the model's inputs.
            max_length: int. Ids of a decoder's row, its prompt included. Defaults to the
                preprocessor's.
            stop_token_ids: `"auto"`, the end of a text; a sequence of ints; or `None`.
            strip_prompt: bool. Whether to leave the prompts out of what is returned.

        Returns:
            A text or a list of texts; with no preprocessor a dictionary as of `generate_step`.

        Raises:
            ValueError: If an argument is not as described, or the model is split by a mesh.
        """
        self.parallelism.check_whole("`generate`")
        if max_length is not None:
            max_length = checks.check_positive_integer("max_length", max_length)
        if self.preprocessor is not None:
            inputs = generate_inputs.checked(inputs)
            if generate_inputs.are_none(inputs):
                return []
        token = generate_inputs.strips_prompts.set(checks.check_bool("strip_prompt", strip_prompt))
        try:
            return super().generate(inputs, max_length, stop_token_ids)
        finally:
            generate_inputs.strips_prompts.reset(token)

    def make_generate_function(self):
        function = super().make_generate_function()

        def checked(inputs, stop_token_ids=None):
            prompt_mask = inputs["decoder_padding_mask"]
            _check_prompts(prompt_mask)
            outputs = function(inputs, stop_token_ids=stop_token_ids)
            if generate_inputs.strips_prompts.get():
                outputs = generate_inputs.without_prompts(outputs, prompt_mask)
            return outputs

        return checked

    def generate_step(self, inputs, stop_token_ids=None, sampler=None):
        """Writes what follows a batch of prompts; `generate` compiles it.

        Args:
            inputs: Dictionary of tensors, the model's inputs. The decoder's ids have the length
                of the result, and its mask is true at the prompts, which start each row.
            stop_token_ids: Sequence of ints. Writing ends when each row has one of them.
            sampler: `keras_hub.samplers.Sampler`. Defaults to that of `compile`.

        Returns:
            Dictionary of `decoder_token_ids` and, true up to the first stop, of
            `decoder_padding_mask`, `(batch, length)`.
        """
        sampler = self.sampler if sampler is None else sampler
        token_ids = ops.cast(inputs["decoder_token_ids"], "int32")
        is_prompt = ops.cast(inputs["decoder_padding_mask"], "bool")
        memory = cached_decoding.read(
            self.backbone, inputs["encoder_token_ids"], inputs["encoder_padding_mask"]
        )
        index = ops.min(ops.sum(ops.cast(is_prompt, "int32"), axis=-1))
        compares = isinstance(sampler, keras_hub.samplers.ContrastiveSampler)
        hidden_states, caches = self._read_prompts(token_ids, index, memory, compares)

        def next(prompt, cache, index):
            token = ops.slice(prompt, (0, index - 1), (ops.shape(prompt)[0], 1))
            x, cache = cached_decoding.step(self.backbone, token, index - 1, cache, memory)
            return cached_decoding.without_padding(self.backbone.logits(x)[:, 0]), x[:, 0], cache

        token_ids = sampler(
            next=next,
            prompt=token_ids,
            cache=caches,
            index=index,
            mask=is_prompt,
            stop_token_ids=stop_token_ids,
            hidden_states=hidden_states,
            model=self,
        )
        is_text = ops.ones_like(token_ids, dtype="bool")
        if stop_token_ids is not None:
            stops = ops.convert_to_tensor(list(stop_token_ids), dtype="int32")
            is_stop = ops.any(ops.equal(token_ids[..., None], stops), axis=-1)
            is_stop = ops.cast(ops.logical_and(is_stop, ~is_prompt), "int32")
            is_text = ops.equal(ops.cumsum(is_stop, axis=-1) - is_stop, 0)
        return {"decoder_token_ids": token_ids, "decoder_padding_mask": is_text}

    def _read_prompts(self, token_ids, index, memory, compares):
        """Hidden states and caches of the prompts.

        Every sampler reads the token before `index` itself. So there is nothing to read where
        the prompts are one token each, unless the sampler `compares` hidden states.
        """
        batch, length = ops.shape(token_ids)
        caches = cached_decoding.empty_caches(self.backbone, batch, length)

        def read():
            return cached_decoding.step(self.backbone, token_ids, 0, caches, memory)

        def skip():
            shape = (batch, length, self.backbone.hidden_dim)
            return ops.zeros(shape, dtype=self.backbone.compute_dtype), caches

        return read() if compares else ops.cond(index > 1, read, skip)

    @classmethod
    def from_preset(cls, preset, load_weights=True, **kwargs):
        """Makes the model of a local folder, or one of `PRESETS` with random weights.

        Args:
            preset: string. A folder written by `save_to_preset` or `keras-switch convert`, or a
                name such as `"switch_base_8"`, which takes `load_weights=False`.
            load_weights: bool. Whether to load the folder's weights.
            **kwargs: Arguments that replace the preset's: the backbone's, such as `dtype`, and
                `preprocessor` and `z_loss_weight`.

        Returns:
            `SwitchSeq2SeqLM`.

        Raises:
            ValueError: If there is no such preset, or a name is to be loaded with weights.
        """
        load = super().from_preset
        return preset_folders.load_task(cls, load, preset, load_weights, **kwargs)

    def get_config(self):
        config = super().get_config() | {"z_loss_weight": self.z_loss_weight}
        # A clone of the model, which writes no text, is compiled with the compile config.
        if self.compiled:
            config["sampler"] = keras.saving.serialize_keras_object(self.sampler)
        return config

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        sampler = keras.saving.deserialize_keras_object(config.pop("sampler", None))
        model = super().from_config(config)
        if sampler is not None:
            model.sampler = sampler
        return model

    def _run_through_graph(self, inputs, operation_fn=lambda operation: operation, call_fn=None):
        """Calls the layers; the logits of a `keras.models.clone_model` use its own embedding."""
        embedding = self.backbone.token_embedding

        def function_of(operation):
            if operation is embedding:
                backbone = operation_fn(self.backbone)
                if isinstance(backbone, SwitchBackbone):
                    return backbone.token_embedding
            return operation_fn(operation)

        return super()._run_through_graph(inputs, function_of, call_fn)


def _check_prompts(mask):
    """Requires that each row of the decoder's padding mask starts with a prompt."""
    starts = ops.convert_to_numpy(mask)[:, :1].any(-1)
    if not starts.all():
        raise ValueError(
            "Each row of `decoder_padding_mask` must start with a 1, for the token that starts "
            f"the text. Received: no 1 at the start of the rows {np.flatnonzero(~starts).tolist()}"
        )
