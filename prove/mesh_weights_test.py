"""Mesh TensorFlow's own Transformer and its converted checkpoint give the same logits."""

import functools
import pathlib
import sys
import tempfile
import types
import unittest
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
import tensorflow.compat.v1 as tf1

from keras_switch.layers import dropless
from keras_switch.tpu.mtf import mesh_tensorflow
from keras_switch.weights.convert import load

BATCH, LENGTH, VOCABULARY, DIM, WIDTH = 4, 9, 100, 8, 12
GATED = {
    "activation": ["gelu", "linear"],
    "norm": "sublayer_rms_norm",
    "final_norm": "sublayer_rms_norm",
    "tied": False,
    "blocks": True,
    "num_heads": 2,
    "gating": "switch",
}
CASES = {
    "gated": GATED,
    "relu": {**GATED, "activation": ["relu"], "tied": True},
    "top_2": {**GATED, "gating": "top_2"},
    "legacy": {
        **GATED,
        "activation": ["relu"],
        "norm": "sublayer_legacy_rms_norm",
        "final_norm": "sublayer_legacy_final_rms_norm",
        "tied": True,
        "blocks": False,
        "num_heads": 1,
    },
}


@functools.cache
def import_transformer():
    """Mesh TensorFlow's modules of layers, without the data sets that its package imports."""
    mtf = mesh_tensorflow()
    package = types.ModuleType("mesh_tensorflow.transformer")
    package.__path__ = [f"{mtf.__path__[0]}/transformer"]
    stubs = {"mesh_tensorflow.transformer": package, "tensorflow_datasets": mock.MagicMock()}
    estimator = types.SimpleNamespace(
        SessionRunHook=object,
        CheckpointSaverListener=object,
        ModeKeys=types.SimpleNamespace(TRAIN="train", EVAL="eval", PREDICT="infer"),
    )
    with (
        mock.patch.dict(sys.modules, stubs),
        mock.patch.object(tf1, "estimator", estimator, create=True),
    ):
        from mesh_tensorflow.transformer import moe
        from mesh_tensorflow.transformer import transformer
        from mesh_tensorflow.transformer import transformer_layers
    return transformer, transformer_layers, moe


def make_model(activation, norm, final_norm, tied, blocks, num_heads, gating):
    """A model of two blocks a stack, of which the second has experts."""
    transformer, layers, moe = import_transformer()
    attention = {"num_heads": num_heads, "key_value_size": 4}
    to_self = (layers.SelfAttention, {**attention, "relative_attention_type": "bias_shared"})
    to_encoder = (layers.EncDecAttention, attention)
    dense = (layers.DenseReluDense, {"hidden_size": WIDTH, "activation": activation})
    experts = {"num_experts": 3, "hidden_size": WIDTH, "activation": activation}
    experts |= {"moe_gating": gating, "capacity_factor_eval": 16.0, "second_policy_eval": "all"}
    experts = (moe.MoE1D, experts)

    def stack(name, kinds, autoregressive):
        layer_stack = transformer.make_layer_stack(
            layers=kinds,
            num_layers=1,
            block_scope=blocks,
            layer_stack_cls=lambda made: transformer.LayerStack(
                made,
                sublayers_initial=[],
                sublayers_per_layer=[
                    getattr(transformer, norm),
                    transformer.sublayer_call_layer,
                    transformer.sublayer_residual,
                ],
                sublayers_final=[getattr(transformer, final_norm)],
            ),
        )
        return transformer.Unitransformer(
            layer_stack,
            d_model=DIM,
            input_vocab_size=VOCABULARY,
            output_vocab_size=VOCABULARY if autoregressive else None,
            autoregressive=autoregressive,
            max_length=LENGTH,
            shared_embedding_and_softmax_weights=tied and autoregressive,
            positional_embedding=False,
            name=name,
            layout="batch:all",
            mesh_shape="all:1",
        )

    encoder = stack("encoder", [to_self, dense, to_self, experts], False)
    kinds = [to_self, to_encoder, dense, to_self, to_encoder, experts]
    return transformer.Bitransformer(encoder, stack("decoder", kinds, True), shared_embedding=True)


def run_and_save(model, inputs, targets, prefix, rng):
    """Gives a model random weights, saves them with TensorFlow's saver and returns its logits."""
    mtf = mesh_tensorflow()
    with tf.Graph().as_default():
        graph = mtf.Graph()
        mesh = mtf.Mesh(graph, "mesh")
        shape = mtf.Shape([mtf.Dimension("batch", BATCH), mtf.Dimension("length", LENGTH)])
        logits, _ = model.call_simple(
            mtf.import_tf_tensor(mesh, inputs, shape),
            mtf.import_tf_tensor(mesh, targets, shape),
            compute_loss=True,
            mode="eval",
            variable_dtype=mtf.VariableDType(tf.float32, tf.float32, tf.float32),
        )
        placement = mtf.placement_mesh_impl.PlacementMeshImpl([], [], [""])
        lowering = mtf.Lowering(graph, {mesh: placement})
        logits = lowering.export_to_tf_tensor(logits)
        names = {variable.name for variable in graph.all_variables}
        masters = [x for x in tf1.global_variables() if x.op.name in names]
        with tf1.Session() as session:
            session.run(tf1.global_variables_initializer())
            for master in masters:
                master.load(rng.normal(0, 0.5, master.shape).astype("float32"), session)
            session.run(lowering.copy_masters_to_slices())
            tf1.train.Saver(masters).save(session, str(prefix), write_meta_graph=False)
            return session.run(logits)


class MeshTensorFlowLogitsTest(unittest.TestCase):
    def test_logits(self):
        for case, arguments in CASES.items():
            with self.subTest(case), tempfile.TemporaryDirectory() as folder:
                rng = np.random.default_rng(0)
                inputs, targets = rng.integers(2, VOCABULARY, (2, BATCH, LENGTH)).astype("int32")
                prefix = pathlib.Path(folder) / "model.ckpt-1"
                expected = run_and_save(make_model(**arguments), inputs, targets, prefix, rng)
                backbone = load(folder, dtype="float32", verbose=0).backbone
                ones = np.ones_like(inputs)
                with dropless():
                    outputs = backbone(
                        {
                            "encoder_token_ids": inputs,
                            "encoder_padding_mask": ones,
                            "decoder_token_ids": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
                            "decoder_padding_mask": ones,
                        }
                    )
                    logits = backbone.logits(outputs["decoder_sequence_output"])
                actual = keras.ops.convert_to_numpy(logits)
                self.assertGreater(expected.std(), 0.1)
                np.testing.assert_allclose(actual, expected, atol=1e-5)


if __name__ == "__main__":
    unittest.main()
