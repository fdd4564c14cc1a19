"""What an optimizer's state costs, from shapes alone."""

from typing import Any

import jax
import optax

from optim import _checks

__all__ = ["state_bytes"]


def state_bytes(tx: optax.GradientTransformation, params: Any) -> int:
    """Bytes of the state of ``tx`` for ``params``; nothing is allocated.

    Args:
      tx: Any optimizer.
      params: Parameters, or a tree of ``jax.ShapeDtypeStruct`` such as ``jax.eval_shape`` returns.

    Returns:
      The sum over all arrays of the state.

    Raises:
      ValueError: If ``tx`` is no optimizer.

    Example:
      >>> import jax, jax.numpy as jnp, optax, optim
      >>> shapes = {f"w{i}": jax.ShapeDtypeStruct((1024, 1024), jnp.float32) for i in range(8)}
      >>> optim.state_bytes(optax.adam(1e-3), shapes) / 2**20
      64.000003...
      >>> optim.state_bytes(optim.frugal(1e-3), shapes) / 2**20
      16.00002...
    """
    _checks.transform("tx", tx)
    state = jax.eval_shape(tx.init, params)
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
