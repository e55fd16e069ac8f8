"""Meshes on the TensorFlow backend: the replicas of a strategy.

Read `replicas.py`, then `split_variable.py` (a slice on each core), `exchange.py` (what crosses
between cores), `replica_optimizer.py` (gradients and slots of slices) and `strategy.py`.
"""
