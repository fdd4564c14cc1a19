"""Gradient norms of each step, kept in the optimizer state."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optim import _checks, _trees
from optim.schedules.budget import whole_steps

__all__ = ["RecordNormsState", "record_norms", "recorded_norms"]


class RecordNormsState(NamedTuple):
    """State of :func:`record_norms`.

    Attributes:
      count: Steps seen so far, an int32 scalar.
      norms: Their norms, shape ``[num_steps]``; zeros for the steps ahead.
    """

    count: Any
    norms: Any


def record_norms(num_steps: int, norm: str = "l2") -> optax.GradientTransformation:
    r"""Keeps the norm of the gradient of each step; changes nothing.

    .. math::
      G_t = \left(\sum_i |g_{t,i}|^2\right)^{1/2} \text{ (l2)} \quad\text{or}\quad
      \sum_i |g_{t,i}| \text{ (l1)}

    Put it first in a chain: what it sees is what it records. The norm is over the whole tree and,
    for sharded arrays under ``jax.jit``, over all devices; inside ``pmap``/``shard_map`` average
    the gradients first. It is part of the optimizer state, so it is saved and resumed with it.
    The state is one float32 per step (float64 for float64 parameters), accumulated in that
    precision whatever the gradients' is, and updated in place when it is donated.

    Args:
      num_steps: Number of steps to keep, at least 1; later ones are not recorded.
      norm: ``"l2"`` (to refine an SGD run) or ``"l1"`` (Adam).

    Returns:
      A ``GradientTransformation`` with state :class:`RecordNormsState`.

    Raises:
      ValueError: If ``num_steps < 1`` or the norm is unknown.

    Example:
      >>> import jax.numpy as jnp, optax, optim
      >>> tx = optax.chain(optim.record_norms(10), optax.sgd(0.1))
      >>> params = jnp.array([3.0, 4.0])
      >>> state = tx.init(params)
      >>> updates, state = tx.update(params, state, params)
      >>> optim.recorded_norms(state).tolist()
      [5.0]
    """
    num_steps = whole_steps("num_steps", num_steps)
    _checks.choice("norm", norm, ["l2", "l1"])

    def init(params):
        dtype = np.float64 if any(map(_is_double, jax.tree.leaves(params))) else np.float32
        norms = jnp.full([num_steps], _trees.scalar_zero(params, dtype))
        return RecordNormsState(jnp.zeros([], jnp.int32), norms)

    def update(updates, state, params=None):
        del params
        dtype = state.norms.dtype
        sizes = [jnp.abs(g).astype(dtype) for g in jax.tree.leaves(updates) if _is_inexact(g)]
        total = jnp.asarray(sum(jnp.sum(x * x if norm == "l2" else x) for x in sizes), dtype)
        value = _trees.root(total) if norm == "l2" else total
        norms = jnp.asarray(state.norms).at[state.count].set(value, mode="drop")
        return updates, RecordNormsState(optax.safe_increment(state.count), norms)

    return optax.GradientTransformation(init, update)


def _is_inexact(x: Any) -> bool:  # A gradient of integers has no norm.
    return jnp.issubdtype(jnp.result_type(x), jnp.inexact)


def _is_double(x: Any) -> bool:
    return jnp.result_type(x) in (np.float64, np.complex128)


def recorded_norms(state: Any) -> np.ndarray:
    """Returns the norms recorded so far in an optimizer state, as numpy, shape [steps].

    A leading axis of replicas (a vmapped population) is kept: shape [..., steps].

    Args:
      state: An optimizer state, or any pytree that holds one :class:`RecordNormsState`.

    Returns:
      The norms, one per step, ready for :func:`optim.refine`.

    Raises:
      ValueError: If there is not exactly one recorder in the state.

    Example: see :func:`record_norms`.
    """

    def is_recorder(node):
        return isinstance(node, RecordNormsState)

    found = [s for s in jax.tree.leaves(state, is_leaf=is_recorder) if is_recorder(s)]
    if len(found) != 1:
        raise ValueError(f"state must hold one record_norms transform, got {len(found)}")
    seen = int(np.max(np.asarray(found[0].count)))
    return np.asarray(found[0].norms)[..., :seen]
