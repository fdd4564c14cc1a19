"""Hessian-vector products of the lower level, and the linear solvers that need only those."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bilevel._common import axpy, scalar
from bilevel.problem import Problem
from optim import parallel

__all__ = ["conjugate_gradient", "hessian_products"]


def hessian_products(problem: Problem, axis_name: str | None) -> Callable[..., Any]:
    r"""Returns ``(x, y, v, batch) -> (f, f_y, f_yy v, f_xy v)`` of the lower function.

    The derivative of the gradient along ``v``, forward over reverse; :math:`f_{xy} v` has the
    structure of ``x``.
    """
    gradient = jax.value_and_grad(scalar(problem.lower, "lower"), (0, 1))

    def products(x, y, v, batch):
        x, y, v = parallel.vary((x, y, v), axis_name)
        (value, (_, f_y)), (_, (f_xy_v, f_yy_v)) = jax.jvp(
            lambda y: gradient(x, y, batch), (y,), (v,)
        )
        return parallel.pmean((value, f_y, f_yy_v, f_xy_v), axis_name)

    return products


def conjugate_gradient(
    matvec: Callable[[Any], Any], b: Any, v0: Any, steps: int
) -> tuple[Any, jax.Array]:
    """Runs ``steps`` iterations of conjugate gradients on ``matvec(v) = b`` from ``v0``.

    ``matvec`` is symmetric positive definite over pytrees. An iteration whose residual is already
    at rounding level, or whose direction has no positive curvature, none above the rounding of the
    largest one met, leaves ``v`` as it is.

    Returns:
      The solution and the norm of the residual relative to ``b``.
    """
    eps = jnp.finfo(jnp.result_type(*jax.tree.leaves(b))).eps
    tiny = eps**2 * optax.tree.vdot(b, b)

    def body(_, carry):
        v, r, p, rr, largest = carry
        ap = matvec(p)
        curvature, square = (jnp.asarray(optax.tree.vdot(p, u)) for u in (ap, p))
        # Of a singular system that is solved, what is left is rounding: it would grow without end.
        largest = jnp.maximum(largest, curvature / jnp.where(square > 0, square, 1))
        going = (rr > tiny) & (curvature > 10 * eps * largest * square)
        a = jnp.where(going, rr / jnp.where(going, curvature, 1), 0)
        v, r_new = axpy(a, p, v), axpy(-a, ap, r)
        rr_new = optax.tree.vdot(r_new, r_new)
        ratio = jnp.where(going, rr_new / jnp.where(going, rr, 1), 0)
        return v, r_new, axpy(ratio, p, r_new), jnp.where(going, rr_new, rr), largest

    r = optax.tree.sub(b, matvec(v0))
    rr = jnp.asarray(optax.tree.vdot(r, r))
    first = (v0, r, r, rr, jnp.zeros_like(rr))
    v, _, _, rr, _ = jax.lax.fori_loop(0, steps, body, first)
    norm_b = optax.tree.norm(b)
    return v, jnp.sqrt(rr) / jnp.where(norm_b > 0, norm_b, 1)
