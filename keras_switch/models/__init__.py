"""Whole models of the Switch Transformer family."""

from keras_switch.models.presets import PRESETS
from keras_switch.models.sizes import flops_per_sequence
from keras_switch.models.sizes import num_parameters
from keras_switch.models.switch_backbone import SwitchBackbone
from keras_switch.models.switch_seq_2_seq_lm import SwitchSeq2SeqLM
from keras_switch.models.switch_seq_2_seq_lm_preprocessor import SwitchSeq2SeqLMPreprocessor
from keras_switch.models.switch_text_classifier import SwitchTextClassifier
from keras_switch.models.switch_text_classifier_preprocessor import SwitchTextClassifierPreprocessor
from keras_switch.models.switch_tokenizer import SwitchTokenizer
from keras_switch.models.upcycle import to_dense
from keras_switch.models.upcycle import upcycle

__all__ = [
    "PRESETS",
    "SwitchBackbone",
    "SwitchSeq2SeqLM",
    "SwitchSeq2SeqLMPreprocessor",
    "SwitchTextClassifier",
    "SwitchTextClassifierPreprocessor",
    "SwitchTokenizer",
    "flops_per_sequence",
    "num_parameters",
    "to_dense",
    "upcycle",
]
