r"""Gradient estimates with momentum (STORM), for the single-loop methods.

.. math::
  e_k = G(v_k; \xi_k) + (1 - \eta_k) (e_{k-1} - G(v_{k-1}; \xi_k)), \quad e_0 = G(v_0; \xi_0)
"""

from typing import Any

import jax
import jax.numpy as jnp

from bilevel._common import Rate, at, oracle
from bilevel.problem import Problem, Samples


def zero_estimates(x: Any, y: Any) -> Samples:
    """Returns the six estimates before the first step, which does not read them."""

    def zeros(tree):
        return jax.tree.map(jnp.zeros_like, tree)

    return Samples(zeros(y), zeros(y), zeros(y), zeros(x), zeros(x), zeros(x))


def storm(problem: Problem, eta: Rate, k: Any, axis_name: str | None):
    """Returns ``(level, argnum, point, old_point, batch, estimate) -> (estimate, value)``.

    ``point`` is the pair at which the function ``level`` is differentiated in argument ``argnum``,
    and ``value`` the function there.
    """
    keep = jnp.where(k == 0, 0.0, 1.0 - at(eta, k))

    def estimate_of(level, argnum, point, old_point, batch, estimate):
        gradient = oracle(problem, level, argnum, axis_name)
        value, new = gradient(*point, batch)
        _, old = gradient(*old_point, batch)
        return jax.tree.map(
            lambda g, e, o: g + jnp.asarray(keep * (e - o), g.dtype), new, estimate, old
        ), value

    return estimate_of
