r"""The multiplier and the report that :func:`bilevel.f2sa` and :func:`bilevel.f3sa` share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bilevel._common import Rate, at


def multiplier(lam: Rate | None, alpha: Any, gamma: Any) -> Callable[[Any], jax.Array]:
    r"""Returns :math:`\lambda_k` of k, the papers' :math:`\gamma_k / (2\alpha_k)` by default."""

    def lam_k(k):
        value = at(gamma, k) / (2 * at(alpha, k)) if lam is None else at(lam, k)
        return jnp.asarray(value, jnp.result_type(float))

    return lam_k


def report(
    f: Any, g_y: Any, g_z: Any, lam: Any, residual: Any, lower_residual: Any
) -> dict[str, Any]:
    """Returns the metrics, of ``f(x, y)``, ``g(x, y)`` and ``g(x, z)``."""
    return {
        "upper": f,
        "lower": g_y,
        "lower_gap": g_y - g_z,
        "gap": f / lam + g_y - g_z,
        "multiplier": lam,
        "residual": residual,
        "lower_residual": lower_residual,
    }
