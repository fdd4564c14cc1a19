"""What FRUGAL's step need not know: dtypes, leaves without a gradient, meshes, bad directions."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, NamedSharding

from optim import _trees

Transform = optax.GradientTransformationExtraArgs


def with_float32(inner: Transform) -> Transform:
    """``inner`` with its arithmetic in float32 where the leaves are of 16 bits.

    Its state keeps the dtype of the parameters, but for float16 it is float32: the square of a
    small gradient is zero in float16.
    """

    def widen(tree, dtypes):
        def wide(x):
            return x.astype(jnp.float32) if jnp.result_type(x) in dtypes else x

        return jax.tree.map(wide, tree)

    def init_fn(params):
        return inner.init(widen(params, (jnp.float16,)))

    def update_fn(updates, state, params=None, **extra):
        small = (jnp.float16, jnp.bfloat16)
        if not any(jnp.result_type(g) in small for g in jax.tree.leaves(updates)):
            return inner.update(updates, state, params, **extra)
        wide = [widen(tree, small) for tree in (updates, state, params)]
        directions, new_state = inner.update(*wide, **extra)
        return _cast(directions, updates), _cast(new_state, state)

    return Transform(init_fn, update_fn)


def _cast(tree: Any, like: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.asarray(x, jnp.result_type(y)), tree, like)


def in_dtype_of_params(tx: Transform) -> Transform:
    """Gradients of another dtype are cast to that of the parameters and state, updates back."""

    def update_fn(updates, state, params=None, **extra):
        if params is None:
            return tx.update(updates, state, params, **extra)
        directions, state = tx.update(_cast(updates, params), state, params, **extra)
        return _cast(directions, updates), state

    return Transform(tx.init, update_fn)


def on_trained_leaves(tx: Transform) -> Transform:
    """Leaves that are no real floating-point arrays are left out; a gradient of ``None`` is zero.

    The update of a leaf whose gradient is ``None`` is ``None``.
    """

    def trained(params):
        def keep(p):
            return p if jnp.issubdtype(jnp.result_type(p), jnp.floating) else None

        return jax.tree.map(keep, params)

    def update_fn(updates, state, params=None, **extra):
        if params is None:
            return tx.update(updates, state, params, **extra)

        def is_none(x):
            return x is None

        kept = trained(params)
        filled = jax.tree.map(
            lambda g, p: jax.tree.map(jnp.zeros_like, p) if g is None else g,
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


def check_direction(name: str, tx: Transform) -> None:
    """Raises ``ValueError`` if ``tx`` is a whole optimizer, whose updates go downhill.

    Args:
      name: Name of the argument.
      tx: A transformation; one that cannot be tried passes.
    """
    if _trees.sign_of(tx) < 0:
        raise ValueError(
            f"{name} must be a direction without a learning rate, such as optax.scale_by_adam(), "
            "but its updates point against the gradient as those of a whole optimizer, such as "
            "optax.adam(...), do: subtracted once more they would climb"
        )
