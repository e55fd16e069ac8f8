"""Whole models of the Switch Transformer family, as KerasHub has models.

Read in this order:

- `presets.py`: the sizes of the family, one table: `PRESETS`.
- `switch_backbone.py`: encoder and decoder: `SwitchBackbone`.
- `switch_seq_2_seq_lm.py`: the model that writes text: `fit`, `generate`, `upcycle`, `to_dense`.
- `cached_decoding.py`: one token after another, which `generate` needs.
- `fill_blanks.py`: texts with blanks, and the likeliest fillings: `fill_blanks`.
- `losses.py`: means over the real targets, wherever those lie.
- `switch_tokenizer.py`, `switch_seq_2_seq_lm_preprocessor.py`: texts to ids, and back.
- `switch_text_classifier.py` and its preprocessor: texts to classes.
- `named_weights.py`: one name for each weight, which copies and conversions go by.
- `upcycle.py`: from a dense model to a sparse one, and back.
- `sizes.py`: parameters and FLOPs without a weight; `preset_folders.py`: `from_preset`'s sources.
"""

from keras_switch.models.fill_blanks import fill_blanks
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
    "fill_blanks",
    "flops_per_sequence",
    "num_parameters",
    "to_dense",
    "upcycle",
]
