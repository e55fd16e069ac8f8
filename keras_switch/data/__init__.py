"""Text to tf.data batches of T5's span corruption."""

from keras_switch.data.batches import SpanCorruptionBatches
from keras_switch.data.corpus import read_corpus
from keras_switch.data.vocabulary import Vocabulary

__all__ = ["SpanCorruptionBatches", "Vocabulary", "read_corpus"]
