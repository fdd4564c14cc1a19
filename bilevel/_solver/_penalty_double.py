"""Algorithm 1 of :func:`bilevel.penalty`: the double loop."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bilevel._common import (
    Rate,
    StepSize,
    at,
    fresh,
    inner_loop,
    maybe,
    mover,
    samples,
    scalar,
    whole_lower,
)
from bilevel._solver._prox import average, prox_start, prox_step, report
from bilevel.problem import Gradients, Problem, Solver
from optim import parallel

__all__ = ["PenaltyState", "double_loop"]


class PenaltyState(NamedTuple):
    """State of :func:`bilevel.penalty`, Algorithm 1.

    Attributes:
      problem: The problem.
      count: Number of iterations made, an int32 scalar.
      x: Upper variable.
      y: Prox center of the penalized problem, like ``y0``.
      z: Prox center of the lower level, like ``y0``.
      wy: Prox point of the penalized problem, the last ``u``.
      wz: Prox point of the lower level, the last ``v``.
      opt_x: State of the optax transform that moves ``x``; ``()`` for a step size.
    """

    problem: Problem
    count: jax.Array
    x: Any
    y: Any
    z: Any
    wy: Any
    wz: Any
    opt_x: Any


def double_loop(
    alpha: StepSize,
    beta: Rate,
    gamma: Rate,
    sigma: Rate,
    rho: float,
    inner_steps: int,
    warm_start: bool,
    axis_name: str | None,
) -> Solver:
    """Returns Algorithm 1, whose arguments :func:`bilevel.penalty` has checked."""
    move_x = mover(alpha, "upper_step")

    def init(problem, x0, y0, z0=None):
        x, y, z = prox_start(problem, x0, y0, z0)
        count = jnp.zeros((), jnp.int32)
        return PenaltyState(problem, count, x, y, z, fresh(y), fresh(z), move_x.init(x))

    def step(state, batch):
        problem, k, x, y, z = state.problem, state.count, state.x, state.y, state.z
        sigma_k, beta_k, gamma_k = at(sigma, k), at(beta, k), at(gamma, k)
        f, g = scalar(problem.upper, "upper"), scalar(problem.lower, "lower")
        whole = whole_lower(problem)
        g_y = parallel.grad(g, 1, axis_name=axis_name)
        h_y = parallel.grad(
            lambda x, y, bf, bg: sigma_k * f(x, y, bf) + g(x, y, bg), 1, axis_name=axis_name
        )

        def inner(carry, s):
            u, v = carry
            u = prox_step(problem, x, u, y, h_y(x, u, s.f_y, s.g_y), gamma_k, rho)
            return u, prox_step(problem, x, v, z, g_y(x, v, s.g_z), gamma_k, rho)

        def difference(x, u, v, s):
            values = f(x, u, s.f_x), whole(x, u, s.g_xy), whole(x, v, s.g_xz)
            return sigma_k * values[0] + values[1] - values[2], values

        first = (state.wy, state.wz) if warm_start else (y, z)
        u, v = inner_loop(inner, first, batch, inner_steps)
        gradient = parallel.value_and_grad(difference, has_aux=True, axis_name=axis_name)
        (_, values), d = gradient(x, u, v, samples(batch))
        metrics = report(state, u, v, d, values, sigma_k, rho)
        x_new, opt_x = move_x.move(x, d, state.opt_x, k)
        state = state._replace(
            count=k + 1, x=maybe(problem.project_x)(x_new), y=average(beta_k, y, u),
            z=average(beta_k, z, v), wy=u, wz=v, opt_x=opt_x,
        )  # fmt: skip
        return state, metrics

    return Solver(
        init, step, axis_name, name="penalty", lower="nonconvex",
        constraints=("project_x", "project_y", "nonsmooth"),
        step_names=("upper_step", "lower_step"),
        residuals=("residual", "prox_residual"),
        gradients=Gradients(upper=inner_steps + 1, lower=2 * inner_steps + 2),
        batch="samples", inner_steps=inner_steps,
    )  # fmt: skip
