"""Private names of TensorFlow. All are in TensorFlow 2.20 and 2.21."""

# Slices at a place that is a tensor, which `tf.slice` under XLA compiles anew for each place.
from tensorflow.compiler.tf2xla.python import xla

# Whether tapes pause, as while `tf.recompute_grad` runs a function for the first time, and what
# makes them go on: the losses that a layer adds there have to be recorded.
from tensorflow.python import pywrap_tfe

# Joins the tensors of all replicas into what a replica is given: `merge_call` has no public way.
from tensorflow.python.distribute.distribute_utils import regroup

# Mesh TensorFlow looks for a function at its former place in this module.
from tensorflow.python.framework import ops as framework_ops

# Whether XLA will compile what is being traced.
from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

# The scope of variables in which `tf.recompute_grad` runs a function again is one of its own.
from tensorflow.python.ops.variable_scope import get_variable_scope

__all__ = [
    "GraphOrParentsInXlaContext",
    "framework_ops",
    "get_variable_scope",
    "pywrap_tfe",
    "regroup",
    "xla",
]
