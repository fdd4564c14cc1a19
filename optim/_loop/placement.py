"""Where the arrays of a loop are: each in a buffer of its own, whole or split over a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from optim._loop.inputs import is_numbers


def as_arrays(name, tree):
    """Returns the tree with arrays for leaves; names a leaf that cannot be one."""

    def array(path, x):
        if isinstance(x, jax.Array | np.ndarray) and is_numbers(x):
            return x
        try:
            return jnp.array(x)
        except TypeError as error:
            raise ValueError(
                f"{name}{jax.tree_util.keystr(path)} must be an array, got {x!r}: keep functions "
                "and names out of it (equinox.partition and nnx.split take a model apart)"
            ) from error

    return jax.tree_util.tree_map_with_path(array, tree)


def own_buffers(state, others):
    """Returns the state with arrays for leaves, each in a buffer of its own, as donation needs."""
    seen = {id(x) for x in jax.tree.leaves(others)}

    def own(path, x):
        if not isinstance(x, jax.Array):
            return jnp.array(x)
        if x.is_deleted():
            name = jax.tree_util.keystr(path)
            raise ValueError(f"state{name} was donated to an earlier run; pass a fresh state")
        if id(x) in seen:
            return jnp.copy(x)
        seen.add(id(x))
        return x

    return jax.tree_util.tree_map_with_path(own, as_arrays("state", state))


def place(name, tree, mesh, split=False):
    """Puts arrays on the mesh, replicated or split on the leading axis; placed ones stay."""
    if mesh is None:
        return jax.tree.map(jnp.asarray, tree)
    sharding = NamedSharding(mesh, PartitionSpec("data") if split else PartitionSpec())

    def put(path, x):
        now = getattr(x, "sharding", None)
        if isinstance(now, NamedSharding):
            if now.mesh == mesh:
                return x
            if not x.is_fully_replicated:
                raise ValueError(
                    f"{name}{jax.tree_util.keystr(path)} is split over {now.mesh}, the loop has "
                    f"{mesh}: split it over that one, by optim.parallel.shard"
                )
        if not mesh.is_multi_process:
            return jax.device_put(x, sharding)
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(
                put(path, jax.random.key_data(x)), impl=jax.random.key_impl(x)
            )
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree_util.tree_map_with_path(put, tree)


def spread(inputs, mesh, axes, whole):
    """Shards the inputs; ``whole`` says that every process holds all of them."""
    if mesh is None:
        return inputs

    def put(x):
        sharding = NamedSharding(mesh, PartitionSpec(*axes[: x.ndim]))
        if whole:
            return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
        return jax.make_array_from_process_local_data(sharding, x)

    return jax.tree.map(put, inputs)
