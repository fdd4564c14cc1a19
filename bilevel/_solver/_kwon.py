r"""What :func:`bilevel.f2sa` and :func:`bilevel.f3sa` share: multiplier, upper step, report."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bilevel._common import Mover, Rate, StepSize, at, mover
from optim import _checks


def multiplier(lam: Rate | None, alpha: Any, gamma: Any) -> Callable[[Any], jax.Array]:
    r"""Returns :math:`\lambda_k` of k, the papers' :math:`\gamma_k / (2\alpha_k)` by default."""

    def lam_k(k):
        value = at(gamma, k) / (2 * at(alpha, k)) if lam is None else at(lam, k)
        return jnp.asarray(value, jnp.result_type(float))

    return lam_k


def upper_mover(
    upper_step: StepSize | None, step_ratio: float | None, penalized_step: StepSize, default: Any
) -> Mover:
    r"""Returns what moves x: the upper step, the papers' :math:`\xi\alpha_k`, or the default."""
    if step_ratio is None:
        return mover(default if upper_step is None else upper_step, "upper_step")
    _checks.number("step_ratio", step_ratio, 0, open_low=True)
    if upper_step is not None:
        raise ValueError("step_ratio and upper_step exclude each other, got both")
    if isinstance(penalized_step, optax.GradientTransformation):
        raise ValueError("step_ratio must be None where penalized_step is an optax transform")
    return mover(lambda k: step_ratio * at(penalized_step, k), "upper_step")


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
