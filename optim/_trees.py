"""Leaf by leaf over a gradient tree and the trees of an optimizer's state."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optim import _checks


def zeros(params: optax.Params, dtype: Any = None) -> optax.Params:
    """Returns zeros like ``params``, in ``dtype`` if given, sharded as they are."""

    def zero(path, p):
        _checks.real_leaf(path, p)
        return jnp.zeros_like(p, dtype=dtype)

    return jax.tree_util.tree_map_with_path(zero, params)


def map_unzip(
    f: Callable[..., tuple], outputs: int, updates: optax.Updates, *trees: Any
) -> tuple[Any, ...]:
    """Returns the ``outputs`` trees of ``f(path, g, *leaves) -> (out, *state)`` over all leaves.

    The last ``outputs - 1`` of ``trees`` are state: where a gradient is ``None`` they stay as they
    are and the first output is ``None``, so parameters without a gradient do not move.
    """
    paths, treedef = jax.tree_util.tree_flatten_with_path(updates, is_leaf=lambda x: x is None)
    columns = [treedef.flatten_up_to(tree) for tree in trees]
    results = []
    for i, (path, g) in enumerate(paths):
        leaves = [column[i] for column in columns]
        if g is None:
            results.append((None, *leaves[len(leaves) - outputs + 1 :]))
        else:
            results.append(f(path, g, *leaves))
    return tuple(treedef.unflatten([r[k] for r in results]) for k in range(outputs))


def check_gradient(path: tuple, g: jax.Array, *leaves: jax.Array) -> None:
    """Raises ``ValueError`` with the path where ``g`` is no real float or of another shape."""
    _checks.gradient(path, g)
    for x in leaves:
        if jnp.shape(x) != jnp.shape(g):
            raise ValueError(
                f"leaf {jax.tree_util.keystr(path)}: the gradient has shape {jnp.shape(g)}, the "
                f"parameter or its state {jnp.shape(x)}"
            )


def widen(*arrays: jax.Array) -> list[jax.Array]:
    """Returns the arrays in their common dtype, float32 at least."""
    dtype = jnp.promote_types(jnp.result_type(*arrays), jnp.float32)
    return [jnp.asarray(x, dtype) for x in arrays]


def add_decayed_weights(weight_decay: Any, mask: Any = None) -> optax.GradientTransformation:
    """Is ``optax.add_decayed_weights``, but the updates keep their dtypes.

    There a schedule, which returns float32 or (with x64) float64, widens those of the parameters.
    """
    tx = optax.add_decayed_weights(weight_decay, mask)

    def update_fn(updates, state, params=None):
        decayed, state = tx.update(updates, state, params)
        return jax.tree.map(lambda d, u: jnp.asarray(d, u.dtype), decayed, updates), state

    return optax.GradientTransformation(tx.init, update_fn)


def bias_correction(decay: Any, count: jax.typing.ArrayLike, dtype: Any) -> jax.Array:
    """Returns ``1 - decay**count``, exact to rounding also where ``decay**count`` is near 1."""
    if isinstance(decay, float | int):
        # In double precision: the logarithm of float32(0.999) is off by 1e-5 of its value.
        log = jnp.asarray(math.log(decay) if decay > 0 else -math.inf, dtype)
    else:
        log = jnp.log(jnp.asarray(decay, dtype))
    return -jnp.expm1(log * jnp.asarray(count, dtype))


def checked(
    tx: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    """Checks gradients against the parameters before ``tx`` sees them."""

    def update_fn(updates, state, params=None, **extra_args):
        if params is not None:
            map_unzip(lambda path, g, p: (check_gradient(path, g, p),), 1, updates, params)
        return tx.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(tx.init, update_fn)
