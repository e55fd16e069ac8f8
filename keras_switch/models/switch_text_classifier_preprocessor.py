"""Texts to what a `SwitchTextClassifier` takes."""

import keras
import keras_hub
from keras_hub.layers import MultiSegmentPacker

from keras_switch.models.preset_folders import PresetTexts
from keras_switch.models.switch_backbone import SwitchBackbone
from keras_switch.models.switch_tokenizer import SwitchTokenizer


@keras.saving.register_keras_serializable(package="keras_switch")
class SwitchTextClassifierPreprocessor(PresetTexts, keras_hub.models.TextClassifierPreprocessor):
    """Tokenizes and packs texts, or tuples of texts that belong together.

    The encoder gets `tokens </s> <pad> ...`, or `tokens </s> tokens </s> <pad> ...`. The decoder
    gets `<pad>`, with which T5 starts it. Labels and weights pass through.

    Args:
        tokenizer: `SwitchTokenizer`.
        sequence_length: int. Ids of an encoder's row. Longer texts are cut.
        truncate: string. `"round_robin"` cuts several texts alike, `"waterfall"` the last ones.
        **kwargs: Base layer keyword arguments, such as `name`.

    Call arguments:
        x: String, batch of strings, or tuple of such.
        y: Labels, or `None`.
        sample_weight: Weights, or `None`.

    Example:
    >>> preprocessor = SwitchTextClassifierPreprocessor(tokenizer, sequence_length=128)
    >>> x, y = preprocessor(["A small house.", "The people walk."], [0, 1])
    """

    backbone_cls = SwitchBackbone
    tokenizer_cls = SwitchTokenizer

    def build(self, input_shape):
        self.packer = MultiSegmentPacker(
            sequence_length=self.sequence_length,
            start_value=[],
            end_value=self.tokenizer.end_token_id,
            pad_value=self.tokenizer.pad_token_id,
            truncate=self.truncate,
        )
        self.built = True

    def call(self, x, y=None, sample_weight=None):
        packed = super().call(x)
        zeros = packed["token_ids"][..., :1] * 0
        x = {
            "encoder_token_ids": packed["token_ids"],
            "encoder_padding_mask": packed["padding_mask"],
            "decoder_token_ids": zeros + self.tokenizer.pad_token_id,
            "decoder_padding_mask": zeros + 1,
        }
        return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)
