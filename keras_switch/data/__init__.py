"""Text to tf.data batches of T5's span corruption.

Read `corpus.py`, `tokens.py` (text to ids), `span_corruption.py` (one chunk of ids), then
`batches.py`.
"""

from keras_switch.data.batches import SpanCorruptionBatches
from keras_switch.data.corpus import embedded_corpora
from keras_switch.data.corpus import read_corpus
from keras_switch.data.tokens import tokenize_corpus
from keras_switch.data.tokens import train_sentencepiece

__all__ = [
    "SpanCorruptionBatches",
    "embedded_corpora",
    "read_corpus",
    "tokenize_corpus",
    "train_sentencepiece",
]
