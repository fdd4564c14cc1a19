"""Gauss-Seidel over blocks: each block moves before the next one is measured."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optim import _checks, _directions
from optim.parallel import pmean
from optim.zeroth_order._blockwise import blocks_of, check_rule, part_of, replaced
from optim.zeroth_order._descent import DescentState, Solver, start
from optim.zeroth_order._estimator import Estimator, check_value
from optim.zeroth_order._rge import or_rge

__all__ = ["block_descent"]


def block_descent(
    loss: Callable[[Any, Any], jax.Array],
    optimizer: optax.GradientTransformation,
    rule: str | Callable[[tuple, Any], Any],
    estimator: Estimator | None = None,
    *,
    axis_name: str | None = None,
) -> Solver:
    r"""Estimates and moves block after block.

    .. math::
      \theta_b \leftarrow \theta_b - u_b\bigl(\hat g(\theta_b \mapsto f(\theta))\bigr),
      \qquad b = 1, \dots, B

    Args:
      loss: ``loss(params, batch)``, a real scalar.
      optimizer: Any optax chain; each block has a state of its own.
      rule: As for :func:`blockwise`. Leaves in no block stay as they are.
      estimator: Of each block; default ``rge()``.
      axis_name: As for :func:`value_and_grad`.

    Returns:
      The solver. Its metrics are ``loss`` (mean of the blocks' values) and ``evaluations``.

    Raises:
      ValueError: If an argument is of the wrong kind, or ``optimizer`` a direction; at init if
        ``rule`` puts no leaf in a block.

    Example:
      >>> import jax, jax.numpy as jnp, optax, optim
      >>> zo = optim.zeroth_order
      >>> solver = zo.block_descent(
      ...     lambda p, batch: (p["a"] + p["b"]) ** 2, optax.sgd(0.5), "[ab]", zo.cge(central=True)
      ... )
      >>> state = solver.init({"a": jnp.float32(1), "b": jnp.float32(2)}, jax.random.key(0))
      >>> solver.step(state, None)[0].params["a"].round(2)
      Array(-2., dtype=float32)
    """
    check_rule(rule)
    inner = or_rge(estimator)
    _checks.transform("optimizer", optimizer)
    _directions.check_optimizer("optimizer", optax.with_extra_args_support(optimizer))

    def init(params, key):
        blocks = [part_of(None, params, block)[1] for block in blocks_of(rule, params)]
        return start(params, tuple(map(optimizer.init, blocks)), key)

    def step(state, batch):
        params, key = state.params, jax.random.fold_in(state.key, state.count)

        def f(at):
            value = loss(at, batch)
            check_value(value)
            return pmean(value, axis_name), None

        values, states, count = [], [], 0
        for b, members in enumerate(blocks_of(rule, params)):
            of_block, own = part_of(f, params, members)
            own_key = jax.random.fold_in(key, b)
            (value, _), gradient = inner.estimate(of_block, own, own_key, state.count)
            updates, opt_state = optimizer.update(gradient, state.opt_state[b], own)
            moved: Any = optax.apply_updates(own, updates)
            params = replaced(params, moved)
            values.append(value)
            states.append(opt_state)
            count += inner.evaluations(own)
        metrics = {"loss": jnp.stack(values).mean(), "evaluations": jnp.float32(count)}
        return DescentState(state.count + 1, params, tuple(states), state.key), metrics

    return Solver(init, step)
