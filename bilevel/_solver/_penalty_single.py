"""Algorithm 2 of :func:`bilevel.penalty`: the single loop with momentum."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel._common import Rate, StepSize, at, axpy, fresh, maybe, mover, samples
from bilevel._solver._prox import average, prox_start, prox_step, report
from bilevel._solver._storm import storm, zero_estimates
from bilevel.problem import Gradients, Problem, Samples, Solver

__all__ = ["PenaltyMomentumState", "single_loop"]


class PenaltyMomentumState(NamedTuple):
    """State of :func:`bilevel.penalty`, Algorithm 2.

    Attributes:
      problem: The problem.
      count: Number of iterations made, an int32 scalar.
      x: Upper variable.
      y: Prox center of the penalized problem, like ``y0``.
      z: Prox center of the lower level, like ``y0``.
      wy: Prox point of the penalized problem.
      wz: Prox point of the lower level.
      previous: ``(x, wy, wz)`` of the iteration before.
      estimates: The six gradient estimates :math:`e_k`: the first three like ``y0``, the others
        like ``x0``.
      opt_x: State of the optax transform that moves ``x``; ``()`` for a step size.
    """

    problem: Problem
    count: jax.Array
    x: Any
    y: Any
    z: Any
    wy: Any
    wz: Any
    previous: tuple[Any, Any, Any]
    estimates: Samples
    opt_x: Any


def single_loop(
    alpha: StepSize,
    beta: Rate,
    gamma: Rate,
    sigma: Rate,
    rho: float,
    eta: Rate,
    axis_name: str | None,
) -> Solver:
    """Returns Algorithm 2, whose arguments :func:`bilevel.penalty` has checked."""
    move_x = mover(alpha, "upper_step")

    def init(problem, x0, y0, z0=None):
        x, y, z = prox_start(problem, x0, y0, z0)
        previous, zero = (fresh(x), fresh(y), fresh(z)), zero_estimates(x, y)
        count = jnp.zeros((), jnp.int32)
        return PenaltyMomentumState(
            problem, count, x, y, z, fresh(y), fresh(z), previous, zero, move_x.init(x)
        )

    def step(state, batch):
        problem, k, x, wy, wz = state.problem, state.count, state.x, state.wy, state.wz
        (x_old, wy_old, wz_old), e, s = state.previous, state.estimates, samples(batch)
        sigma_k, beta_k, gamma_k = at(sigma, k), at(beta, k), at(gamma, k)
        estimate = storm(problem, eta, k, axis_name)
        e_fy, _ = estimate("upper", 1, (x, wy), (x_old, wy_old), s.f_y, e.f_y)
        e_gy, _ = estimate("lower", 1, (x, wy), (x_old, wy_old), s.g_y, e.g_y)
        e_gz, _ = estimate("lower", 1, (x, wz), (x_old, wz_old), s.g_z, e.g_z)
        u = prox_step(problem, x, wy, state.y, axpy(sigma_k, e_fy, e_gy), gamma_k, rho)
        v = prox_step(problem, x, wz, state.z, e_gz, gamma_k, rho)
        e_fx, fxu = estimate("upper", 0, (x, u), (x_old, wy), s.f_x, e.f_x)
        e_gxy, gxu = estimate("lower", 0, (x, u), (x_old, wy), s.g_xy, e.g_xy)
        e_gxz, gxv = estimate("lower", 0, (x, v), (x_old, wz), s.g_xz, e.g_xz)
        d = optax.tree.sub(axpy(sigma_k, e_fx, e_gxy), e_gxz)
        metrics = report(state, u, v, d, (fxu, gxu, gxv), sigma_k, rho)
        x_moved, opt_x = move_x.move(x, d, state.opt_x, k)
        x_new = maybe(problem.project_x)(x_moved)
        state = state._replace(
            count=k + 1, x=x_new, y=average(beta_k, state.y, u), z=average(beta_k, state.z, v),
            wy=u, wz=v, previous=(x, wy, wz),
            estimates=Samples(e_fy, e_gy, e_gz, e_fx, e_gxy, e_gxz), opt_x=opt_x,
        )  # fmt: skip
        return state, metrics

    return Solver(
        init, step, axis_name, name="penalty", lower="nonconvex",
        constraints=("project_x", "project_y", "nonsmooth"),
        step_names=("upper_step", "lower_step"),
        residuals=("residual", "prox_residual"),
        gradients=Gradients(upper=4, lower=8), batch="samples",
    )  # fmt: skip
