"""All that exists for XLA:CPU alone. Nothing here changes a value.

XLA:CPU makes every array in a loop of its own, in any order that their inputs allow. Where a loop
overwrites a donated array that another loop has yet to read, XLA copies the array first, unless the
one loop needs what the other makes. :func:`after` and :func:`write_last` make it so; other backends
compile the step as it is.
"""

import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

__all__ = ["after", "count_true", "write_last"]


def after(tree: Any, *earlier: Any) -> Any:
    """Returns ``tree``; on CPU, under ``jit``, it is computed after all leaves of ``earlier``.

    A zero is added that is made of one entry of each leaf of ``earlier``.

    Args:
      tree: Pytree of floating-point arrays.
      *earlier: Pytrees of floating-point arrays; those made by expensive operations or sums, as
        XLA evaluates one entry of a cheap elementwise operation by itself.

    Returns:
      The values of ``tree``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from optim import _xla_cpu
      >>> step = lambda p, g: (p - _xla_cpu.after(g, jnp.vdot(p, p)), jnp.vdot(p, p))
      >>> jax.jit(step, donate_argnums=0)(jnp.ones(2), jnp.array([0.0, 1.0]))[0]
      Array([1., 0.], dtype=float32)
    """
    leaves = [x for x in jax.tree.leaves(earlier) if jnp.size(x) and _is_whole(x)]
    if not any(isinstance(x, jax.core.Tracer) for x in leaves):
        return tree
    return jax.lax.platform_dependent(tree, leaves, cpu=_add_zero, default=lambda tree, _: tree)


def write_last(
    tx: optax.GradientTransformationExtraArgs, position: int, field: str
) -> optax.GradientTransformationExtraArgs:
    """Returns ``tx``, a chain, that writes one field of its state after the new parameters.

    The updates read the old field; so do the new parameters that the caller makes of them.

    Args:
      tx: An ``optax.chain``.
      position: Place in the chain of the transformation whose state has the field.
      field: Name of the field, a tree like the parameters.

    Returns:
      The chain with the same updates and the same state.
    """

    def update_fn(updates, state, params=None, **extra_args):
        updates, state = tx.update(updates, state, params, **extra_args)
        if params is None:
            return updates, state

        def wait(x, u, p):
            return x if u is None else after(x, optax.apply_updates(p, u))

        states = list(cast(tuple, state))
        tree = getattr(states[position], field)
        written = jax.tree.map(wait, tree, updates, params, is_leaf=lambda x: x is None)
        states[position] = states[position]._replace(**{field: written})
        return updates, tuple(states)

    return optax.GradientTransformationExtraArgs(tx.init, update_fn)


def count_true(hits: jax.Array) -> jax.Array:
    """Returns the number of True: XLA:CPU adds bytes four times as fast as it adds up one integer.

    Args:
      hits: Booleans of any shape.

    Returns:
      The count, int32.

    Example:
      >>> import jax.numpy as jnp
      >>> from optim import _xla_cpu
      >>> _xla_cpu.count_true(jnp.array([True, False, True]))
      Array(2, dtype=int32)
    """
    hits = hits.ravel()
    whole = hits.size // (64 * 256) * (64 * 256)
    rest = hits[whole:].sum(dtype=jnp.int32)
    if not whole:
        return rest
    rows = hits[:whole].astype(jnp.int8).reshape(-1, 64, 256).sum(1, dtype=jnp.int8)
    return rows.sum(dtype=jnp.int32) + rest


def _is_whole(x):
    # An array that is explicitly sharded has no entry to slice without communication.
    return not any(jax.typeof(x).sharding.spec)


def _add_zero(tree, leaves):
    firsts = [jax.lax.stop_gradient(x[(slice(1),) * x.ndim].reshape(())) for x in leaves]
    zeros = [jnp.fmax(-jnp.abs(x), 0.0).astype(jnp.float32) for x in firsts]  # 0 of NaN, too.
    zero = functools.reduce(jnp.add, zeros)
    return jax.tree.map(lambda x: x + zero.astype(x.dtype), tree)
