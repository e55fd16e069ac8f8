"""Texts to what a `SwitchSeq2SeqLM` takes, and back."""

import keras
import keras_hub

from keras_switch.models.preset_folders import PresetTexts
from keras_switch.models.switch_backbone import SwitchBackbone
from keras_switch.models.switch_tokenizer import SwitchTokenizer


@keras.saving.register_keras_serializable(package="keras_switch")
class SwitchSeq2SeqLMPreprocessor(PresetTexts, keras_hub.models.T5Seq2SeqLMPreprocessor):
    """Tokenizes and packs pairs of texts as T5 does.

    The encoder gets `tokens </s> <pad> ...`. The decoder gets `<pad> tokens </s>` without its last
    id, and its targets are the same ids without the first; padding has weight 0. To generate, the
    decoder starts with `<pad>` and the tokens of the prompt, if there is one.

    Args:
        tokenizer: `SwitchTokenizer`.
        encoder_sequence_length: int. Ids of an encoder's row, 1,024 by default. Shorter texts are
            padded, longer ones cut.
        decoder_sequence_length: int. Ids of a decoder's row, likewise.
        **kwargs: Base layer keyword arguments, such as `name`.

    Call arguments:
        x: Dictionary of strings, or batches of strings, `encoder_text` and `decoder_text`.

    Example:
    >>> preprocessor = SwitchSeq2SeqLMPreprocessor(tokenizer, 512, 114)
    >>> x, y, sample_weight = preprocessor({
    ...     "encoder_text": ["The <extra_id_0> walks."],
    ...     "decoder_text": ["<extra_id_0> dog <extra_id_1>"],
    ... })
    """

    backbone_cls = SwitchBackbone
    tokenizer_cls = SwitchTokenizer

    def get_config(self):
        # KerasHub's own leaves the lengths out.
        return super().get_config() | {
            "encoder_sequence_length": self.encoder_sequence_length,
            "decoder_sequence_length": self.decoder_sequence_length,
        }
