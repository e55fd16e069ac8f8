"""Weights from and to the formats of others: `convert`.

Read in this order:

- `convert.py`: the whole way: find the format, check names and shapes, fill each weight, write.
- `source.py`: what a format must tell (`Source`, `Entry`), and the checks of it.
- `huggingface_names.py`: the shortest table from our names to theirs; `huggingface.py` reads such a
  folder, with `huggingface_config.py`, `huggingface_files.py` and `huggingface_tokenizer.py`.
- `huggingface_writer.py`: the way back.
- `source_without_config.py`: sizes that follow from the tensors, for `t5x.py`, `t5x_tensors.py` and
  `mesh_tensorflow.py`.
- `keras_folder.py`: KerasHub's folders. `untrusted_folder.py`: files that someone else wrote.
"""

from keras_switch.weights.convert import convert

__all__ = ["convert"]
