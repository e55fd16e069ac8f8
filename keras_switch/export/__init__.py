"""SavedModels for TensorFlow Serving.

`saved_model.py` exports any model of ids; `text_model.py`, one that takes and gives text, whose
blanks are in `blanks.py`. `ask.py` asks it in a process of TensorFlow only, which runs `serve.py`;
`pretrained.py` exports what was trained on JAX.
"""

from keras_switch.export.ask import ask_in_another_process
from keras_switch.export.pretrained import export_pretrained
from keras_switch.export.saved_model import check_backend
from keras_switch.export.saved_model import export_saved_model
from keras_switch.export.text_model import export_text_model

__all__ = [
    "ask_in_another_process",
    "check_backend",
    "export_pretrained",
    "export_saved_model",
    "export_text_model",
]
