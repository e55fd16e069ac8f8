"""Whole models of the Switch Transformer family."""

from keras_switch.models.presets import PRESETS
from keras_switch.models.switch_backbone import SwitchBackbone
from keras_switch.models.switch_seq_2_seq_lm import SwitchSeq2SeqLM
from keras_switch.models.switch_seq_2_seq_lm_preprocessor import SwitchSeq2SeqLMPreprocessor
from keras_switch.models.switch_tokenizer import SwitchTokenizer

__all__ = [
    "PRESETS",
    "SwitchBackbone",
    "SwitchSeq2SeqLM",
    "SwitchSeq2SeqLMPreprocessor",
    "SwitchTokenizer",
]
