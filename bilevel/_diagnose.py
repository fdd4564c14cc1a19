"""A local stability check: is the solver's own iteration, here, a contraction?"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.problem import Problem, Solver
from optim import _checks

__all__ = ["Diagnosis", "diagnose"]


class Diagnosis(NamedTuple):
    """What :func:`diagnose` found.

    Attributes:
      spectral_radius: Of the one-step map's Jacobian at the state.
      uncertainty: How much the estimate still moved over the last half of the power iteration.
      stable: Whether the radius is at most one, to the tolerance; a NaN is not.
      metrics: The solver's metrics of that step.
    """

    spectral_radius: float
    uncertainty: float
    stable: bool
    metrics: dict[str, float]


def diagnose(
    problem: Problem,
    solver: Solver,
    state: Any,
    batch: Any = None,
    iterations: int = 2000,
    tolerance: float = 1e-3,
    seed: int = 0,
) -> Diagnosis:
    r"""Estimates the spectral radius of one step of ``solver`` at ``state``, and warns above one.

    .. math::
      \rho(J) = \lim_n \|J^n v\|^{1/n}, \qquad J = \partial s_{k+1} / \partial s_k

    by power iteration with Jacobian-vector products; the iteration count, and with it every
    schedule (:math:`\sigma_k, c_k, \lambda_k`), stays where it is. Eigenvalues may be complex:
    the growth of the norm is averaged. Above one, errors grow near this state: the run oscillates
    or diverges, however slowly, and smaller steps (or another :math:`c_k`, :math:`\gamma_2`) are
    needed. Projections count where they bind; at a bound that clips every multiplier, say, the
    check sees the clipped dynamics.

    Args:
      problem: The problem.
      solver: The method.
      state: Where: a state of it, best near the end of a run.
      batch: Batch of the step.
      iterations: Length of the power iteration, at least 8.
      tolerance: Excess over one that is put down to rounding and to a finite iteration.
      seed: Of the first vector.

    Returns:
      A :class:`Diagnosis`.

    Raises:
      ValueError: On fewer than 8 iterations.

    Example:
      >>> import bilevel, jax.numpy as jnp, warnings
      >>> problem = bilevel.Problem(
      ...     upper=lambda x, y, batch: jnp.sum((y - 1.0) ** 2) + 0.5 * jnp.sum(x**2),
      ...     lower=lambda x, y, batch: jnp.sum((y - x) ** 2),
      ... )
      >>> solver = bilevel.penalty(0.3, 0.8, 0.2, upper_weight=0.1, prox=1.0)
      >>> state = solver.init(problem, jnp.zeros(1), jnp.zeros(1))
      >>> bilevel.diagnose(problem, solver, state, iterations=200).stable
      True
    """
    _checks.count("iterations", iterations, 8)
    state = state._replace(problem=problem)
    growth = jax.jit(lambda state, batch: growth_of(solver.step, state, batch, iterations, seed))
    logs, metrics = growth(state, batch)
    logs = np.asarray(logs, np.float64)
    if not np.all(np.isfinite(logs[logs != -np.inf])):
        radius, uncertainty = float("nan"), float("nan")
    else:
        third, fourth = (float(np.exp(np.mean(q))) for q in np.array_split(logs, 4)[2:])
        radius = float(np.exp(np.mean(logs[iterations // 2 :])))
        uncertainty = abs(fourth - third)
    stable = bool(radius <= 1 + tolerance)
    if np.isnan(radius):
        warnings.warn(
            "no spectral radius: a derivative of the step at this state is not finite", stacklevel=2
        )
    elif not stable:
        warnings.warn(
            f"locally unstable: the one-step map has spectral radius {radius:.4f} > 1 (moved by "
            f"{uncertainty:.1g} at the end of the power iteration); take smaller steps, or other "
            "penalty and proximal parameters",
            stacklevel=2,
        )
    return Diagnosis(radius, uncertainty, stable, {k: float(v) for k, v in metrics.items()})


def growth_of(
    step: Callable[..., Any], state: Any, batch: Any, iterations: int, seed: int
) -> tuple[jax.Array, dict[str, Any]]:
    """Returns the logarithms of the growth in each step of the power iteration, and the metrics.

    Only the floating-point leaves of the state are varied. Traceable.
    """
    leaves, structure = jax.tree.flatten(state)
    moving = [i for i, a in enumerate(leaves) if jnp.issubdtype(jnp.result_type(a), jnp.floating)]
    rng = np.random.default_rng(seed)
    values = [jnp.asarray(leaves[i]) for i in moving]
    first = [jnp.asarray(rng.standard_normal(a.shape), a.dtype) for a in values]

    def one_step(values):
        full = list(leaves)
        for i, a in zip(moving, values, strict=True):
            full[i] = a
        new, metrics = step(jax.tree.unflatten(structure, full), batch)
        new = jax.tree.leaves(new)
        return [new[i] for i in moving], metrics

    _, push, metrics = jax.linearize(one_step, values, has_aux=True)

    def body(i, carry):
        vector, logs = carry
        vector = push(vector)
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(a)) for a in vector))
        safe = jnp.where(norm > 0, norm, 1.0)
        return [a / safe.astype(a.dtype) for a in vector], logs.at[i].set(jnp.log(norm))

    return jax.lax.fori_loop(0, iterations, body, (first, jnp.zeros(iterations)))[1], metrics
