"""Meshes on the JAX backend: a `keras.distribution` and `shard_map`.

`shards.py` is the mesh; `sharding.py` says where data and weights lie, and how groups travel.
"""
