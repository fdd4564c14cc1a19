"""Directions, that is transformations without a learning rate: told from optimizers, in float32."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optim import _trees

Transform = optax.GradientTransformationExtraArgs


def sign_of(tx: optax.GradientTransformationExtraArgs) -> int:
    """Returns 1 if the updates of ``tx`` point along a constant gradient, -1 if against it, else 0.

    So a direction is told from a whole optimizer, whose learning rate has a minus sign. 0 stands
    for what cannot be told: ``tx`` is made for other leaves, or depends on traced numbers.
    """
    try:
        # Operation by operation: they are few, and compiled once for all transformations.
        with (
            jax.ensure_compile_time_eval(),
            jax.disable_jit(),
            jax.numpy_dtype_promotion("standard"),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            x, gradient = jnp.zeros((2, 2)), jnp.ones((2, 2))
            state, updates = tx.init(x), []
            for _ in range(3):  # A warm-up may begin with a rate of zero.
                u, state = tx.update(gradient, state, x)
                updates.append(np.asarray(u, np.float64))
    except Exception:
        return 0
    signs = np.sign(updates)
    return int(np.any(signs) and np.all(signs >= 0)) - int(np.any(signs) and np.all(signs <= 0))


def check_direction(name: str, tx: Transform) -> None:
    """Raises ``ValueError`` if ``tx`` is a whole optimizer, whose updates go downhill.

    Args:
      name: Name of the argument.
      tx: A transformation; one that cannot be tried passes.
    """
    if sign_of(tx) < 0:
        raise ValueError(
            f"{name} must be a direction without a learning rate, such as optax.scale_by_adam(), "
            "but its updates point against the gradient as those of a whole optimizer, such as "
            "optax.adam(...), do: subtracted once more they would climb"
        )


def check_optimizer(name: str, tx: Transform, instead: str = "") -> None:
    """Raises ``ValueError`` if ``tx`` is a direction, whose updates go uphill.

    Args:
      name: Name of the argument.
      tx: A transformation; one that cannot be tried passes.
      instead: What else to do, for the message.
    """
    if sign_of(tx) > 0:
        raise ValueError(
            f"{name} must be a whole optimizer, such as optax.adam(1e-3), but its updates point "
            "along the gradient as those of a direction without a learning rate, such as "
            f"optax.scale_by_adam(), do{instead}"
        )


def with_float32(inner: Transform) -> Transform:
    """``inner`` with its arithmetic in float32 where the leaves are of 16 or 8 bits.

    Its state keeps the dtype of the parameters, but for float16 and 8 bits it is float32: the
    square of a small gradient is zero there. Its dtypes promote as they do by default even where a
    user has set ``jax_numpy_dtype_promotion`` to strict, which optax's Adam does not obey.
    """

    def run(*args, **extra):
        with jax.numpy_dtype_promotion("standard"):
            return inner.update(*args, **extra)

    def is_narrow(x):
        dtype = jnp.result_type(x)
        return jnp.issubdtype(dtype, jnp.floating) and _trees.wide_dtype(x) != dtype

    def widen(tree, which):
        return jax.tree.map(lambda x: x.astype(jnp.float32) if which(x) else x, tree)

    def init_fn(params):
        return inner.init(widen(params, lambda x: is_narrow(x) and x.dtype != jnp.bfloat16))

    def update_fn(updates, state, params=None, **extra):
        if not any(map(is_narrow, jax.tree.leaves(updates))):
            return run(updates, state, params, **extra)
        wide = [widen(tree, is_narrow) for tree in (updates, state, params)]
        directions, new_state = run(*wide, **extra)
        return cast(directions, updates), cast(new_state, state)

    return Transform(init_fn, update_fn)


def cast(tree: Any, like: Any) -> Any:
    """Returns the leaves of a tree in the dtypes of those of another of the same structure."""
    return jax.tree.map(lambda x, y: jnp.asarray(x, jnp.result_type(y)), tree, like)
