"""What both algorithms of :func:`bilevel.penalty` do: start, proximal step, average, report."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from bilevel._common import lower_start, onto_lower, projected_gradient, start, uncoupled
from bilevel.problem import Problem


def prox_start(problem: Problem, x0: Any, y0: Any, z0: Any) -> tuple[Any, Any, Any]:
    """Returns ``(x, y, z)``; raises ``ValueError`` on a constraint of both levels."""
    uncoupled(problem, "penalty")
    x, y = start(problem, x0, y0)
    return x, y, lower_start(problem, y, z0)


def prox_step(problem: Problem, x: Any, w: Any, center: Any, d: Any, gamma: Any, rho: Any) -> Any:
    r"""Returns :math:`P_Y(w - \gamma (d + (w - c) / \rho))`, or the prox of the nonsmooth term."""
    w = jax.tree.map(
        lambda w, c, d: w - jnp.asarray(gamma * (d + (w - c) / rho), w.dtype), w, center, d
    )
    return onto_lower(problem, x, w, gamma)


def average(beta: Any, center: Any, w: Any) -> Any:
    r"""Returns :math:`(1 - \beta) c + \beta w`."""
    return jax.tree.map(lambda c, w: c + jnp.asarray(beta * (w - c), c.dtype), center, w)


def report(state: Any, u: Any, v: Any, d: Any, values: Any, sigma: Any, rho: Any) -> dict[str, Any]:
    r"""Returns the metrics of a step from ``state`` with prox points ``u, v`` and direction ``d``.

    ``values`` are :math:`f(x, u), g(x, u), g(x, v)`.
    """
    fxu, gxu, gxv = values
    psi_x = jax.tree.map(lambda a: jnp.asarray(a / sigma, a.dtype), d)
    return {
        "upper": fxu,
        "lower": gxu,
        "lower_gap": gxu - gxv,
        "gap": sigma * fxu + gxu - gxv,
        "multiplier": jnp.asarray(1 / sigma, jnp.result_type(float)),
        "prox_residual": optax.tree.norm(optax.tree.sub((u, v), (state.y, state.z))) / rho,
        "residual": projected_gradient(state.problem.project_x, state.x, psi_x),
    }
