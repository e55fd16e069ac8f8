"""Meshes on the JAX backend: a `keras.distribution` and `shard_map`."""
