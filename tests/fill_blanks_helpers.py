"""A small model that fills blanks."""

import lm_helpers
import tokenizer_helpers
from keras import ops

from keras_switch.models import SwitchSeq2SeqLMPreprocessor
from keras_switch.models import SwitchTokenizer


def make(**kwargs):
    tokenizer = SwitchTokenizer(tokenizer_helpers.spiece_model(), num_sentinels=3)
    size = tokenizer.vocabulary_size() + 2  # An embedding often has more rows than pieces.
    model = lm_helpers.make(vocabulary_size=size, **kwargs)
    embeddings = model.backbone.token_embedding.embeddings
    embeddings.assign(6 * ops.convert_to_numpy(embeddings))  # So that it has opinions.
    model.preprocessor = SwitchSeq2SeqLMPreprocessor(tokenizer, 8, 8)
    return model
