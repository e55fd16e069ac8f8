"""Text to tf.data batches of T5's tasks.

Read `sources.py` (where text comes from), `tokens.py` (text to ids), `tasks.py` (chunks of ids),
then `batches.py`; `pair_batches.py` and `packing.py` for pairs of texts. Text that is too long for
the memory goes through `preparing.py` and `shards.py` to a folder that `prepared_tokens.py` reads.
"""

from keras_switch.data.batches import SpanCorruptionBatches
from keras_switch.data.batches import TaskBatches
from keras_switch.data.corpus import embedded_corpora
from keras_switch.data.corpus import read_corpus
from keras_switch.data.mixture import Mixture
from keras_switch.data.mixture import mixture_rates
from keras_switch.data.packing import packed_positions
from keras_switch.data.pair_batches import PairBatches
from keras_switch.data.prepared_tokens import PreparedTokens
from keras_switch.data.preparing import prepare
from keras_switch.data.sources import read_lines
from keras_switch.data.tasks import CausalLM
from keras_switch.data.tasks import PrefixLM
from keras_switch.data.tasks import SpanCorruption
from keras_switch.data.text_batches import TextCorruptionBatches
from keras_switch.data.tokens import tokenize_corpus
from keras_switch.data.tokens import train_sentencepiece

__all__ = [
    "CausalLM",
    "Mixture",
    "PairBatches",
    "PrefixLM",
    "PreparedTokens",
    "SpanCorruption",
    "SpanCorruptionBatches",
    "TaskBatches",
    "embedded_corpora",
    "TextCorruptionBatches",
    "mixture_rates",
    "packed_positions",
    "prepare",
    "read_corpus",
    "read_lines",
    "tokenize_corpus",
    "train_sentencepiece",
]
