"""Random directions, made from a key and nothing else."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optim import _checks, _trees

__all__ = ["PIECE", "draw", "leaf_keys", "normal_piece", "wide"]

PIECE = 2**16  # Numbers drawn from one key; mezo perturbs as many at a time.


def draw(distribution: str | Callable[..., Any]) -> Callable[[jax.Array, Any, Any], Any]:
    """Returns ``(key, probe, like) -> direction``, a tree of the shapes of ``like``.

    Every distribution has the covariance of the identity matrix, so that the mean of
    ``(z'g) z`` is ``g``. Low-precision leaves get directions in float32.
    """
    if callable(distribution):
        return distribution
    _checks.choice("distribution", distribution, _KINDS, "a function (key, probe, params)")
    return _KINDS[distribution]


def _by_leaf(sample):
    def direction(key, probe, like):
        leaves, treedef = jax.tree.flatten(like)
        keys = leaf_keys(key, probe, len(leaves))
        return treedef.unflatten([sample(k, x) for k, x in zip(keys, leaves, strict=True)])

    return direction


def leaf_keys(key: jax.Array, probe: Any, leaves: int) -> list[jax.Array]:
    """Returns a key for each leaf in the direction of a probe."""
    key = jax.random.fold_in(key, probe)
    return [jax.random.fold_in(key, i) for i in range(leaves)]


def wide(leaf: Any) -> Any:
    """Returns the dtype of a leaf's direction: its own, float32 at least."""
    return _trees.wide_dtype(leaf)


def normal_piece(key: jax.Array, piece: Any, dtype: Any) -> jax.Array:
    """Returns piece number ``piece`` of a leaf's normal numbers, for leaves of several pieces."""
    return jax.random.normal(jax.random.fold_in(key, piece), (PIECE,), dtype)


def _normal(key, leaf):
    size, dtype = math.prod(jnp.shape(leaf)), wide(leaf)
    if size <= PIECE:
        return jax.random.normal(key, jnp.shape(leaf), dtype)
    pieces = -(-size // PIECE)
    z = jax.vmap(lambda i: normal_piece(key, i, dtype))(jnp.arange(pieces))
    return z.reshape(-1)[:size].reshape(jnp.shape(leaf))


def _rademacher(key, leaf):
    return jax.random.rademacher(key, jnp.shape(leaf), wide(leaf))


def _sphere(key, probe, like):
    z = _by_leaf(_normal)(key, probe, like)
    leaves = jax.tree.leaves(z)
    square = sum(jnp.sum(x**2) for x in leaves)
    radius = math.sqrt(sum(x.size for x in leaves))
    return jax.tree.map(lambda x: (x * (radius / jnp.sqrt(square))).astype(x.dtype), z)


_KINDS = {"normal": _by_leaf(_normal), "rademacher": _by_leaf(_rademacher), "sphere": _sphere}
