"""What FRUGAL's step need not know: dtypes, leaves without a gradient, meshes."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, NamedSharding

from optim._directions import cast
from optim._trees import as_array

Transform = optax.GradientTransformationExtraArgs


def in_dtype_of_params(tx: Transform) -> Transform:
    """Gradients of another dtype are cast to that of the parameters and state, updates back."""

    def update_fn(updates, state, params=None, **extra):
        if params is None:
            return tx.update(updates, state, params, **extra)
        directions, state = tx.update(cast(updates, params), state, params, **extra)
        return cast(directions, updates), state

    return Transform(tx.init, update_fn)


def on_trained_leaves(tx: Transform) -> Transform:
    """Leaves that are no real floating-point arrays are left out; a gradient of ``None`` is zero.

    The update of a leaf whose gradient is ``None`` is ``None``.
    """

    def trained(params):
        def keep(p):
            return as_array(p) if jnp.issubdtype(jnp.result_type(p), jnp.floating) else None

        return jax.tree.map(keep, params)

    def update_fn(updates, state, params=None, **extra):
        if params is None:
            return tx.update(updates, state, params, **extra)

        def is_none(x):
            return x is None

        kept = trained(params)
        filled = jax.tree.map(
            lambda g, p: jax.tree.map(jnp.zeros_like, p) if g is None else as_array(g),
            updates,
            kept,
            is_leaf=is_none,
        )
        directions, state = tx.update(filled, state, kept, **extra)
        out = jax.tree.map(
            lambda g, u: None if g is None else u, updates, directions, is_leaf=is_none
        )
        return out, state

    return Transform(lambda params: tx.init(trained(params)), update_fn)


def on_explicit_axes(tx: Transform) -> Transform:
    """On explicit mesh axes the compiler decides inside; the state stays as it is laid out."""

    def update_fn(updates, state, params=None, **extra) -> Any:
        specs = jax.tree.map(lambda x: jax.typeof(x).sharding.spec, (updates, state))
        if not any(axis for spec in jax.tree.leaves(specs) for axis in spec):
            return tx.update(updates, state, params, **extra)
        update = functools.partial(tx.update, **extra)
        auto: Any = jax.sharding.auto_axes(update, out_sharding=specs)
        return auto(updates, state, params)

    return Transform(tx.init, update_fn)


def common_sharding(arrays: list[Any]) -> NamedSharding | None:
    """The sharding over a mesh that all arrays have; under ``jit`` only explicit axes are known."""
    found = set()
    for x in arrays:
        if isinstance(x, jax.core.Tracer):
            of = jax.typeof(x).sharding
            found.add(of if any(of.spec) else None)
        else:
            found.add(getattr(x, "sharding", None))
    of = found.pop() if len(found) == 1 else None
    return of if isinstance(of, NamedSharding) else None


def placed(x: jax.Array, sharding: NamedSharding) -> jax.Array:
    """``x`` with that sharding."""
    if isinstance(x, jax.core.Tracer) or isinstance(sharding.mesh, AbstractMesh):
        return jax.sharding.reshard(x, sharding)
    return jax.device_put(x, sharding)
