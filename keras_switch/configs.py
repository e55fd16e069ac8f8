"""The settings of a pre-training run: one table of fields, for Python, files and flags."""

import dataclasses
import json
import pathlib

from keras_switch import checks

OPTIMIZERS = ("adafactor", "adam")
SCHEDULES = ("cosine", "inverse_sqrt")
BALANCES = ("group", "mesh")
DTYPES = ("float32", "bfloat16", "mixed_bfloat16")
# The largest seed whose successor, that of the held-out text, is one too.
LARGEST_SEED = 2**31 - 2


def _setting(default, summary, least=None, most=None, choices=None):
    """A field, with what `keras-switch pretrain --help` says of it and what it may be."""
    limits = {"summary": summary, "least": least, "most": most, "choices": choices}
    return dataclasses.field(default=default, metadata=limits)


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """What decides a run; `keras-switch pretrain --help` describes each field.

    Raises:
        ValueError: If a value is not of its field's type or range.

    Example:
    >>> PretrainConfig(num_experts=16).num_experts
    16
    """

    corpus: str = _setting("", "Text, or a folder of `prepare`. Default: the one shipped.")
    vocabulary: str = _setting("", "SentencePiece model. Default: one trained on the corpus.")
    vocabulary_size: int = _setting(2048, "Ids of the vocabulary, if it is trained.", 1)
    inputs_length: int = _setting(128, "Tokens the encoder reads.", 4)
    short_inputs_length: int = _setting(32, "Tokens it reads in the first epochs.", 4)
    short_epochs: int = _setting(10, "Epochs on short texts, whose batches are as much larger.", 0)
    noise_density: float = _setting(0.15, "Share of the text to hide.", 0.0, 0.9)
    mean_span_length: float = _setting(3.0, "Mean length of a hidden span.", 1.0)
    batch_size: int = _setting(16, "Texts of the full length in a batch.", 1)
    hidden_dim: int = _setting(128, "Width of the model.", 1)
    intermediate_dim: int = _setting(512, "Hidden width of an expert.", 1)
    num_heads: int = _setting(4, "Attention heads.", 1)
    num_layers: int = _setting(2, "Blocks of the encoder, and of the decoder.", 2)
    num_experts: int = _setting(8, "Experts of each sparse block.", 1)
    capacity_factor: float = _setting(1.25, "Slots over tokens, in training.", 0.0)
    dropout: float = _setting(0.0, "Rate of T5's dropouts.", 0.0, 1.0)
    expert_dropout: float = _setting(0.0, "Rate of the dropout in the experts.", 0.0, 1.0)
    balance_loss_weight: float = _setting(0.01, "Weight of the load balancing loss.", 0.0)
    balance_over: str = _setting("group", "Tokens of a load balancing loss.", choices=BALANCES)
    router_z_loss_weight: float = _setting(0.0, "Weight of the routers' z-loss.", 0.0)
    dtype: str = _setting("mixed_bfloat16", "Dtype of the layers.", choices=DTYPES)
    optimizer: str = _setting(
        "adafactor", "Adafactor's updates are relative to each weight's size.", choices=OPTIMIZERS
    )
    schedule: str = _setting("cosine", "How the learning rate falls.", choices=SCHEDULES)
    learning_rate: float = _setting(5e-2, "The highest learning rate.", 0.0)
    warmup_steps: int = _setting(100, "Steps to get there; of inverse_sqrt, steps at it.", 0)
    epochs: int = _setting(20, "Epochs; more than a run has extend it.", 1)
    steps_per_epoch: int = _setting(150, "Steps between two looks at held-out text.", 1)
    validation_steps: int = _setting(8, "Batches of held-out text.", 1)
    mesh: str = _setting("", "Axes and their cores, such as batch:8. Default: one core.")
    layout: str = _setting("batch:batch,experts:batch", "Dimensions and the axes they lie on.")
    seed: int = _setting(0, "Seed of everything random.", 0, LARGEST_SEED)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))
        self._check_together()

    def _check_together(self):
        if not self.learning_rate:
            raise ValueError("`learning_rate` must be positive. Received: learning_rate=0")
        if self.optimizer == "adam" and self.learning_rate > 0.03:
            raise ValueError(
                "`learning_rate` must be at most 0.03 with Adam, such as 0.003: its updates are "
                "not relative to the weights' size. "
                f"Received: learning_rate={self.learning_rate}"
            )
        if not self.short_epochs or self.short_inputs_length >= self.inputs_length:
            return
        if self.short_epochs >= self.epochs:
            raise ValueError(
                "`short_epochs` must be fewer than `epochs`: whole texts come after them. "
                f"Received: short_epochs={self.short_epochs}, epochs={self.epochs}"
            )
        if self.batch_size % 2:
            raise ValueError(
                "`batch_size` must be even: after `short_epochs` half of it are short texts. "
                f"Received: batch_size={self.batch_size}"
            )

    @classmethod
    def from_file(cls, path):
        """Reads settings of a JSON file: those that it names, or a run's own `config.json`.

        Raises:
            ValueError: If the file is not one of settings.
        """
        path = pathlib.Path(path)
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"`config` must be a JSON file of settings ({error}). Received: config={path!s}"
            ) from None
        if isinstance(settings, dict) and isinstance(settings.get("settings"), dict):
            settings = settings["settings"]
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(settings) - set(known)) if isinstance(settings, dict) else settings
        if not isinstance(settings, dict) or unknown:
            raise ValueError(
                f"`config` must be a JSON object whose names are among {', '.join(known)}. "
                f"Received: {unknown!r} in {path}"
            )
        return cls(**settings)


def _check(field, value):
    least, most = field.metadata["least"], field.metadata["most"]
    choices = field.metadata["choices"]
    if field.type is str:
        if not isinstance(value, str) or (choices and value not in choices):
            expected = f"one of {', '.join(choices)}" if choices else "a string"
            raise ValueError(f"`{field.name}` must be {expected}. Received: {field.name}={value!r}")
        return
    if field.type is int:
        checks.check_integer(field.name, value, least)
    else:
        checks.check_number(field.name, value, least)
    if most is not None and value > most:
        raise ValueError(f"`{field.name}` must be at most {most}. Received: {field.name}={value}")
