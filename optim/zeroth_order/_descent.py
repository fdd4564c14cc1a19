"""What the solvers of this package share: their state, and their two functions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optim.zeroth_order._estimator import check_params

__all__ = ["DescentState", "Solver", "start"]


class Solver(NamedTuple):
    """``init(params, key) -> state`` and ``step(state, batch) -> (state, metrics)``."""

    init: Callable[[Any, jax.Array], Any]
    step: Callable[[Any, Any], tuple[Any, dict[str, jax.Array]]]


class DescentState(NamedTuple):
    """State of :func:`conservative` and :func:`block_descent`.

    Attributes:
      count: Finished steps, int32 of shape ``()``.
      params: The parameters.
      opt_state: State of the optimizer; of :func:`block_descent` a tuple of one for each block.
      key: Key of all directions.
    """

    count: jax.Array
    params: Any
    opt_state: Any
    key: jax.Array


def start(params: Any, opt_state: Any, key: jax.Array) -> DescentState:
    """Returns the first state."""
    check_params(params)
    params = jax.tree.map(jnp.asarray, params)
    return DescentState(jnp.zeros([], jnp.int32), params, opt_state, key)
