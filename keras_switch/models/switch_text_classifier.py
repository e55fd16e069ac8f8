"""A Switch Transformer that sorts texts into classes."""

import keras
import keras_hub

from keras_switch import checks
from keras_switch.layers.dtypes import at_least_float32
from keras_switch.models import preset_folders
from keras_switch.models.switch_backbone import SwitchBackbone
from keras_switch.models.switch_text_classifier_preprocessor import SwitchTextClassifierPreprocessor


@keras.saving.register_keras_serializable(package="keras_switch")
class SwitchTextClassifier(keras_hub.models.TextClassifier):
    """A `SwitchBackbone` with a dense layer on the decoder's state at its start.

    The encoder reads the text, the decoder the one id that starts it. `fit` trains on texts and
    integer labels; the routers' losses are added to the cross-entropy.

    Args:
        backbone: `SwitchBackbone`.
        num_classes: int. Number of classes.
        preprocessor: `SwitchTextClassifierPreprocessor`. `None` takes the backbone's inputs.
        activation: string or callable. `None` gives logits, `"softmax"` probabilities.
        dropout: float. Rate of the dropout before the dense layer.
        **kwargs: `name`, `trainable` and `compile`.

    Inputs are those of the backbone. Outputs are float32, `(batch, num_classes)`.

    Raises:
        ValueError: If an argument is not as described.

    Example:
    >>> classifier = SwitchTextClassifier.from_preset("my_folder", num_classes=2)
    >>> history = classifier.fit(["A small house.", "The people walk."], [0, 1], verbose=0)
    """

    backbone_cls = SwitchBackbone
    preprocessor_cls = SwitchTextClassifierPreprocessor

    def __init__(
        self, backbone, num_classes, preprocessor=None, activation=None, dropout=0.0, **kwargs
    ):
        checks.check_keywords(kwargs, preset_folders.TASK_KEYWORDS)
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.num_classes = checks.check_positive_integer("num_classes", num_classes)
        self.activation = keras.activations.get(activation)
        self.dropout = checks.check_number("dropout", dropout, 0, 1)
        self.output_dropout = keras.layers.Dropout(
            dropout, dtype=backbone.dtype_policy, name="output_dropout"
        )
        self.output_dense = Float32Dense(
            num_classes,
            activation=activation,
            dtype=at_least_float32(backbone.dtype_policy),
            name="logits",
        )
        x = backbone(backbone.input)["decoder_sequence_output"][:, 0]
        outputs = self.output_dense(self.output_dropout(x))
        super().__init__(inputs=backbone.input, outputs=outputs, **kwargs)

    @classmethod
    def from_preset(cls, preset, load_weights=True, **kwargs):
        """Makes a classifier of a local folder, or of a name in `PRESETS`.

        The folder may be that of a classifier or, with `num_classes`, of any other model.

        Args:
            preset: string. A folder written by `save_to_preset` or `keras-switch convert`, or a
                name such as `"switch_base_8"`, which takes `load_weights=False`.
            load_weights: bool. Whether to load the folder's weights.
            **kwargs: Arguments of the class, and of the backbone, such as `dtype`.

        Returns:
            `SwitchTextClassifier`.

        Raises:
            ValueError: If there is no such preset, or a name is to be loaded with weights.
        """
        load = super().from_preset
        return preset_folders.load_task(cls, load, preset, load_weights, **kwargs)

    def get_config(self):
        return super().get_config() | {
            "num_classes": self.num_classes,
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout,
        }


@keras.saving.register_keras_serializable(package="keras_switch")
class Float32Dense(keras.layers.Dense):
    """The layer of the classes: the task's config keeps no dtype of it."""

    def quantize(self, mode=None, type_check=True, config=None):
        raise NotImplementedError(
            f"`quantize` leaves the classifier's layer `{self.path}` as it is, in float32. "
            f"Received: mode={mode!r}"
        )
