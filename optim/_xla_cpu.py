"""The order in which XLA:CPU makes the values of a step, where it saves copies."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["after"]


def after(tree: Any, *earlier: Any) -> Any:
    """Returns ``tree``; on CPU, under ``jit``, it is computed after all leaves of ``earlier``.

    XLA:CPU makes every array in a loop of its own, in any order that their inputs allow. Where one
    of them overwrites a donated array that another may still read, XLA copies it, unless the one
    needs the other. So a zero is added that is made of ``earlier``: of one entry of each leaf.
    Other backends compile ``tree`` as it is.

    Args:
      tree: Pytree of floating-point arrays.
      *earlier: Pytrees of floating-point arrays; those made by expensive operations or sums, as
        XLA evaluates one entry of a cheap elementwise operation by itself.

    Returns:
      The values of ``tree``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from optim import ordering
      >>> step = lambda p, g: (p - ordering.after(g, jnp.vdot(p, p)), jnp.vdot(p, p))
      >>> jax.jit(step, donate_argnums=0)(jnp.ones(2), jnp.array([0.0, 1.0]))[0]
      Array([1., 0.], dtype=float32)
    """
    leaves = [x for x in jax.tree.leaves(earlier) if jnp.size(x) and _is_whole(x)]
    if not any(isinstance(x, jax.core.Tracer) for x in leaves):
        return tree
    return jax.lax.platform_dependent(tree, leaves, cpu=_add_zero, default=lambda tree, _: tree)


def _is_whole(x):
    # An array that is explicitly sharded has no entry to slice without communication.
    return not any(jax.typeof(x).sharding.spec)


def _add_zero(tree, leaves):
    firsts = [jax.lax.stop_gradient(x[(slice(1),) * x.ndim].reshape(())) for x in leaves]
    zeros = [jnp.fmax(-jnp.abs(x), 0.0).astype(jnp.float32) for x in firsts]  # 0 of NaN, too.
    zero = functools.reduce(jnp.add, zeros)
    return jax.tree.map(lambda x: x + zero.astype(x.dtype), tree)
