"""Lowers Mesh TensorFlow's own `switch` gating on random cases and saves what it gives.

    python prove/mesh_reference.py CASES.npz      (needs tensorflow and mesh-tensorflow)

Mesh TensorFlow expects a TensorFlow that still had estimators; a stub stands for them.
"""

import sys
import types

import numpy as np
import tensorflow as tf

# Groups, tokens of a group, width, experts, capacity.
CASES = [(2, 24, 8, 4, 24), (3, 40, 6, 8, 3), (1, 64, 10, 3, 20), (4, 16, 4, 16, 2)]


def import_mesh():
    estimator = types.ModuleType("tensorflow.compat.v1.estimator")
    estimator.SessionRunHook = estimator.CheckpointSaverListener = object
    sys.modules["tensorflow.compat.v1.estimator"] = estimator
    tf.compat.v1.estimator = estimator
    from tensorflow.python.framework import ops

    ops.register_tensor_conversion_function = tf.register_tensor_conversion_function
    import mesh_tensorflow as mtf

    sibling = types.ModuleType("mesh_tensorflow.transformer.transformer")
    sibling.TransformerLayer = object
    package = types.ModuleType("mesh_tensorflow.transformer")
    package.__path__ = [mtf.__path__[0] + "/transformer"]
    package.transformer = sibling
    sys.modules["mesh_tensorflow.transformer"] = package
    sys.modules["mesh_tensorflow.transformer.transformer"] = sibling
    from mesh_tensorflow.transformer import moe

    return mtf, moe


def run(mtf, moe, groups, size, dim, num_experts, capacity, seed):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(groups, size, dim)).astype("float32")
    kernel = rng.normal(size=(dim, num_experts)).astype("float32")
    hparams = moe.HParams(
        moe_switch_policy_eval="argmax",
        moe_word_embed_mode=None,
        moe_use_second_place_expert_prob=None,
        moe_z_loss=None,
    )
    with tf.Graph().as_default():
        graph = mtf.Graph()
        mesh = mtf.Mesh(graph, "mesh")
        shape = mtf.Shape([mtf.Dimension("batch", groups), mtf.Dimension("group", size)])
        shape += mtf.Shape([mtf.Dimension("d_model", dim)])
        dispatch, combine, loss = moe._switch_gating(
            mtf.import_tf_tensor(mesh, inputs, shape),
            None,
            mtf.Dimension("experts", num_experts),
            mtf.Dimension("expert_capacity", capacity),
            hparams,
            train=False,
            variable_dtype=mtf.VariableDType(tf.float32, tf.float32, tf.float32),
        )
        placement = mtf.placement_mesh_impl.PlacementMeshImpl([], [], [""])
        lowering = mtf.Lowering(graph, {mesh: placement})
        results = [lowering.export_to_tf_tensor(x) for x in (dispatch, combine, loss)]
        with tf.compat.v1.Session() as session:
            session.run(tf.compat.v1.global_variables_initializer())
            (variable,) = tf.compat.v1.trainable_variables()
            variable.load(kernel, session)
            session.run(lowering.copy_masters_to_slices())
            dispatch, combine, loss = session.run(results)
    return {
        "capacity": capacity,
        "inputs": inputs,
        "router": kernel,
        "dispatch": dispatch,
        "combine": combine,
        "loss": loss,
    }


if __name__ == "__main__":
    modules = import_mesh()
    saved = {}
    for index, case in enumerate(CASES):
        saved.update({f"{index}/{k}": v for k, v in run(*modules, *case, seed=index).items()})
    np.savez(sys.argv[1], **saved)
