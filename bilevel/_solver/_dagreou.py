r"""The move of :func:`bilevel.soba` and :func:`bilevel.saba`, which differ in their directions."""

from typing import Any

import optax

from bilevel._common import Mover, Rate, at, axpy, maybe, projected_gradient


def moved(
    state: Any, move_x: Mover, rho: Rate, values: tuple[Any, Any], f_y: Any, d_v: Any, d_x: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the new fields of ``state`` after a step along the directions, and the metrics.

    ``values`` are F and f before the step.
    """
    problem, k, x = state.problem, state.count, state.x
    new_x, opt_x = move_x.move(x, d_x, state.opt_x, k)
    metrics = {
        "upper": values[0],
        "lower": values[1],
        "hypergradient": optax.tree.norm(d_x),
        "residual": projected_gradient(problem.project_x, x, d_x),
        "lower_residual": optax.tree.norm(f_y),
        "linear_residual": optax.tree.norm(d_v),
    }
    rho_k = at(rho, k)
    new = {
        "count": k + 1,
        "x": maybe(problem.project_x)(new_x),
        "y": axpy(-rho_k, f_y, state.y),
        "v": axpy(-rho_k, d_v, state.v),
        "opt_x": opt_x,
    }
    return new, metrics
