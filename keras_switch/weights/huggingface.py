"""Weights of Hugging Face folders: Switch Transformers and T5."""

import math

from keras_switch.weights import huggingface_config
from keras_switch.weights import huggingface_files
from keras_switch.weights import huggingface_names
from keras_switch.weights import huggingface_tokenizer
from keras_switch.weights import untrusted_folder
from keras_switch.weights.source import Source

CONFIG = "config.json"
# T5's first release has it, and no implementation uses it.
_UNUSED = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"


class HuggingFace(Source):
    """A folder of `transformers`: config.json, weights, and maybe a tokenizer.

    Raises:
        ValueError: If a file is broken or a value of the configuration not sensible.
        FileNotFoundError: If a file is missing.
        ImportError: If the weights are in pytorch_model.bin and torch is missing.
    """

    title = "Hugging Face (config.json and model.safetensors or pytorch_model.bin)"

    @classmethod
    def recognises(cls, path):
        return (path / CONFIG).is_file()

    def __init__(self, path):
        super().__init__(path)
        config = untrusted_folder.read_json(path, CONFIG)
        self._model_type = config.get("model_type")
        if self._model_type not in huggingface_config.MODEL_TYPES:
            known = " or ".join(huggingface_config.MODEL_TYPES)
            raise ValueError(
                f"`model_type` in config.json must be {known}. Received: input={str(path)!r}, "
                f"model_type={self._model_type!r}"
            )
        self._tensors = huggingface_files.Tensors(path)
        self.names_and_shapes = dict(self._tensors.shapes)
        self._check_numbers(config)
        self.arguments = huggingface_config.to_arguments(config)
        tokenizer = huggingface_tokenizer.read(path)
        self.spiece, self.num_sentinels = tokenizer.spiece, tokenizer.num_sentinels
        self.added_tokens, self.assumed = tokenizer.added, tokenizer.left_out
        self._same = {}
        self._find_duplicates(may_share=config.get("tie_word_embeddings") is not False)
        self.ignored = frozenset({_UNUSED})

    def table(self, shapes):
        gated = self.arguments.get("gated", False)
        return huggingface_names.table(shapes, self._model_type, gated)

    def read(self, name):
        return self._tensors.read(self._same.get(name, name))

    def _check_numbers(self, config):
        """Refuses sizes that there are too few tensors or numbers for, before they are used."""
        tensors = len(self.names_and_shapes)
        numbers = sum(map(math.prod, self.names_and_shapes.values()))
        limits = dict.fromkeys(("num_layers", "num_decoder_layers", "num_experts"), tensors)
        limits |= dict.fromkeys(("vocab_size", "d_model", "d_kv", "d_ff", "num_heads"), numbers)
        limits["relative_attention_num_buckets"] = numbers
        for name, limit in limits.items():
            if type(config.get(name)) is int and config[name] > limit:
                raise ValueError(
                    "The configuration does not fit the weights. Received: "
                    f"input={str(self.path)!r}, {name}={config[name]}, and {tensors} "
                    f"tensors of {numbers} numbers"
                )

    def _find_duplicates(self, may_share):
        """Any name of the embedding may be the only one, or there may be several.

        Args:
            may_share: bool. Whether logits without a tensor may be the embedding.
        """
        shared, logits = huggingface_names.SHARED, huggingface_names.LOGITS
        tied = self.arguments["tie_embedding_weights"]
        names = (*huggingface_names.EMBEDDINGS, *([logits] if tied else []))
        found = [name for name in names if name in self.names_and_shapes]
        if found and found[0] != shared:
            self._same[shared] = found[0]
            self.names_and_shapes[shared] = self.names_and_shapes.pop(found[0])
        self.duplicates = dict.fromkeys(found[1:], shared)
        untied = self._model_type == "t5" and not tied and may_share
        if untied and logits not in self.names_and_shapes:
            # T5's logits may share the embedding without rescaling, which ours do not.
            self._same[logits] = self._same.get(shared, shared)
            self.names_and_shapes |= {logits: self.names_and_shapes[shared]} if found else {}
