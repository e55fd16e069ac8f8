"""The private names of other packages that this one uses, and why each is needed.

Their next release may change them without a word, so they stand here alone: what is imported, in
`keras.py` and `tensorflow.py`; what is read of an object or overridden in a subclass, in the
table below. `tests/private_test.py` fails where the package uses another private name, and where
one of these is gone. A number is the first release of Keras that is known to have the name.
"""

# What is read of objects of others.
READ = {
    "keras.Layer._flatten_layers": "every layer of a model, however deep: no public list; 3.0",
    "keras.Model._symbolic_build": "makes metrics and slots without data, as `fit` does; 3.0",
    "keras.Variable._layout": "where a JAX variable lies; `value.sharding` needs a value; 3.0",
    "keras.Variable._maybe_autocast": "a split variable's whole value is cast as any other; 3.0",
    "keras.Variable._shape": "the whole shape, where `shape` is that of a slice; 3.0",
    "keras.Variable._dtype": "the dtype before autocasting; 3.0",
    "keras.Variable._value": "the `tf.Variable` that `strategy.extended.update` takes; 3.0",
    "keras.optimizers.Optimizer._distribution_strategy": "the mesh it was made on; 3.0",
    "keras.optimizers.Optimizer._exclude_from_weight_decay": "set by a method that comes late; 3.0",
    "keras.optimizers.Optimizer._accumulated_gradients": "the sums of accumulation; 3.0",
    "keras.optimizers.Optimizer._check_variables_are_known": "the error of Keras's `apply`; 3.0",
    "keras.optimizers.Optimizer._clip_gradients": "clipping by value needs no other norm; 3.0",
    "keras.optimizers.Optimizer._get_variable_index": "the slot of a variable; 3.0",
    "keras.optimizers.Optimizer._iterations": "steps, and not updates, while accumulating; 3.4",
    "keras.optimizers.Optimizer._model_variables_moving_average": "the averages of weights; 3.0",
    "keras.optimizers.Optimizer._track_variable": "makes a slot one that is saved; 3.0",
    "keras.optimizers.Optimizer._trainable_variables": "what the slots belong to; 3.0",
    "keras.optimizers.Optimizer._update_model_variables_moving_average": "averages; 3.0",
    "keras.optimizers.Lamb._momentums": "Lamb's norms are completed after its step; 3.3",
    "keras.optimizers.Lamb._velocities": "the same; 3.3",
    "keras.optimizers.LossScaleOptimizer._stateless_handle_finite_grads": "a taken step; 3.0",
    "keras.optimizers.LossScaleOptimizer._stateless_handle_non_finite_grads": "a skipped one; 3.0",
    "keras_hub.tokenizers.SentencePieceTokenizer._check_vocabulary": "its error without a model",
    "keras_hub.tokenizers.SentencePieceTokenizer._sentence_piece": "renewed where it was freed",
    "mesh_tensorflow.LayoutRules._pairs": "the rules as pairs: there is no public list",
}

# What a subclass here overrides.
OVERRIDDEN = {
    "keras.Function._run_through_graph": "the logits of a clone use its own embedding; 3.0",
    "keras.Layer._losses": "the losses of each thread apart, for replicas; 3.0",
    "keras.Variable._initialize_with_initializer": "a slice on each core; 3.4",
    "keras.Variable._direct_assign": "scatters a whole value; 3.0",
    "keras.Variable._shared_name": "the name in checkpoints of TensorFlow; 3.0",
    "keras.Variable._serialize_to_tensors": "checkpoints of TensorFlow hold whole values; 3.0",
    "keras.Variable._restore_from_tensors": "the same, read; 3.0",
    "keras.Variable._copy_trackable_to_cpu": "a SavedModel would hold one slice: refused; 3.0",
    "keras.Variable._export_to_saved_model_graph": "the same; 3.0",
    "keras.optimizers.Optimizer._var_key": "undoes what Keras adds for strategies; 3.0",
    "keras.optimizers.Optimizer._apply_weight_decay": "the same; 3.0",
    "keras.optimizers.Optimizer._backend_update_step": "the same; 3.0",
    "keras.optimizers.Optimizer._overwrite_model_variables_with_average_value": "the same; 3.0",
    "keras.optimizers.Optimizer._overwrite_variable_with_gradient": "never of a slice; 3.9",
    "keras.optimizers.Optimizer._backend_apply_gradients": "clips by completed norms; 3.0",
}

# What is replaced by a function that calls it.
REPLACED = {
    "keras.callbacks.CallbackList.on_epoch_begin": "starts the averages of the routing metrics",
    "keras.callbacks.CallbackList.on_epoch_end": "adds them to the logs of `fit`, and to no other",
    "keras.Model.fit": "on JAX, once there is a mesh: runs on the mesh of the model, or on none; "
    "so do `train_on_batch`, `evaluate`, `predict` and their like, and `compile`",
    "distribution_lib.distribute_data_input": "on JAX, once there is a mesh: batches to evaluate "
    "need not divide over it",
}
