"""Where the rows of a batch lie on the JAX backend."""

import jax
import keras
import numpy as np
from jax.sharding import PartitionSpec


class DataLayout(keras.distribution.TensorLayout):
    """A batch divided over several axes, which Keras's own layout cannot say.

    Args:
        axes: Tuple of names of axes, or `None` for what every core holds whole.
        device_mesh: `keras.distribution.DeviceMesh`.
    """

    def __init__(self, axes, device_mesh):
        spec = PartitionSpec() if axes is None else PartitionSpec(axes)
        self._backend_layout = _DataSharding(device_mesh.backend_mesh, spec)
        super().__init__([None if axes is None else axes])


class _DataSharding(jax.sharding.NamedSharding):
    """Says what to do about a batch that does not divide over the cores."""

    def shard_shape(self, global_shape):
        try:
            return super().shard_shape(global_shape)
        except ValueError as error:
            axes = np.atleast_1d(self.spec[0]).tolist()
            cores = int(np.prod([self.mesh.shape[axis] for axis in axes]))
            raise ValueError(
                f"A batch must divide over the {cores} cores of {axes}. Make every batch, also "
                f"the last one, a multiple of {cores}, as with "
                "`dataset.batch(batch_size, drop_remainder=True)`. Received: a batch of shape "
                f"{tuple(global_shape)}"
            ) from error
