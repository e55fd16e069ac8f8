"""Meshes on the TensorFlow backend: the replicas of a strategy."""
