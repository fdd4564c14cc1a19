"""Backpropagation for some leaves, estimates for the others."""

import re
from typing import Any

import jax
import jax.numpy as jnp

from optim import _paths
from optim.parallel import pmean, vary
from optim.zeroth_order._blockwise import check_rule, part_of, path_names, replaced
from optim.zeroth_order._estimator import Estimator
from optim.zeroth_order._rge import or_rge

__all__ = ["hybrid"]


def hybrid(
    rule: Any, estimator: Estimator | None = None, *, axis_name: str | None = None
) -> Estimator:
    r"""Backpropagation for the leaves of a rule, an estimate for the others.

    .. math::
      \hat g = \bigl(\nabla_{\theta_A} f(\theta),\; \hat g(\theta_B \mapsto f(\theta_A, \theta_B))
      \bigr)

    With the last layers in A, no activations of the layers before them are kept.

    Args:
      rule: Bools like the parameters (a prefix will do), a function ``(path, leaf) -> bool``, or a
        regex that is searched in ``"layers_0/kernel"``: ``True`` for leaves by backpropagation.
      estimator: Of the others; default ``rge()``.
      axis_name: As given to :func:`value_and_grad`.

    Returns:
      The estimator; its value is that at the parameters.

    Raises:
      ValueError: If ``estimator`` is none, ``rule`` does not fit the parameters, or leaves none of
        them to backpropagation.

    Example:
      >>> import jax, jax.numpy as jnp, optim
      >>> estimator = optim.zeroth_order.hybrid({"head": True, "body": False})
      >>> vg = optim.zeroth_order.value_and_grad(
      ...     lambda p, batch: p["head"] @ p["body"], estimator
      ... )
      >>> params = {"head": jnp.ones(2), "body": jnp.array([3.0, 4.0])}
      >>> vg(params, None, jax.random.key(0))[1]["head"]
      Array([3., 4.], dtype=float32)
    """
    inner = or_rge(estimator)
    if isinstance(rule, str):
        check_rule(rule)

    def split(params):
        names = path_names(params)
        if isinstance(rule, str):
            exact = [re.search(rule, n) is not None for n in names]
        else:
            exact = _paths.resolve("rule", rule, params)
        if not any(exact):
            raise ValueError(f"rule leaves nothing to backpropagation: {rule!r}")
        return [[n for n, e in zip(names, exact, strict=True) if e is k] for k in (True, False)]

    def estimate(f, params, key, step):
        exact, rest = split(params)
        of_exact, own = part_of(f, params, exact)
        value, part = jax.value_and_grad(of_exact, has_aux=True)(vary(own, axis_name))
        gradient = replaced(jax.tree.map(jnp.zeros_like, params), pmean(part, axis_name))
        if rest:
            _, part = inner.estimate(*part_of(f, params, rest), key, step)
            gradient = replaced(gradient, part)
        return value, gradient

    def evaluations(params):
        _, rest = split(params)
        return 2 + (inner.evaluations(part_of(None, params, rest)[1]) if rest else 0)

    return Estimator(estimate, evaluations)
