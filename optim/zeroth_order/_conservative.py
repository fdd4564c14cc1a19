"""Steps that are taken only if they pay: the best of staying, the step, and its reverse."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optim import _checks
from optim.parallel import pmean
from optim.zeroth_order._descent import DescentState, Solver, start
from optim.zeroth_order._estimator import Estimator, value_and_grad
from optim.zeroth_order._rge import or_rge

__all__ = ["conservative"]


def conservative(
    loss: Callable[[Any, Any], jax.Array],
    optimizer: optax.GradientTransformation,
    estimator: Estimator | None = None,
    *,
    undo: str = "keep",
    axis_name: str | None = None,
) -> Solver:
    r"""Compares the loss before a step u of the optimizer, after it, and after the reverse step.

    .. math::
      \theta_{t+1} = \operatorname{arg\,min}
      \{f(\theta_t),\; f(\theta_t - u_t),\; f(\theta_t + u_t)\}

    on one batch. Where values are equal, the step goes before the others and the reverse step
    before staying, as in the authors' program; a value of NaN is larger than all others. The
    optimizer's state moves in any case.

    Args:
      loss: ``loss(params, batch)``, a real scalar.
      optimizer: Any optax chain.
      estimator: Of the gradient; default ``rge()``.
      undo: ``"keep"`` holds the parameters while it compares. ``"step"`` repeats the authors'
        program, which undoes a step by one of minus two gradients and then, where it stays or
        takes the step, by one or two more: with momentum or Adam the points compared are then
        not those of the equation.
      axis_name: As for :func:`value_and_grad`.

    Returns:
      The solver. Its metrics are ``loss`` (before the step), ``choice`` (0 stayed, 1 the step, 2
      the reverse) and ``evaluations``: those of the estimator and three.

    Raises:
      ValueError: If an argument is out of its range.

    Example:
      >>> import jax, jax.numpy as jnp, optax, optim
      >>> solver = optim.zeroth_order.conservative(lambda w, batch: w @ w, optax.sgd(0.2))
      >>> state = solver.init(jnp.array([1.0, -2.0]), jax.random.key(0))
      >>> state, metrics = solver.step(state, None)
      >>> bool(state.params @ state.params <= 5.0)
      True

    References:
      Zhang et al., Revisiting Zeroth-Order Optimization for Memory-Efficient LLM Fine-Tuning,
      2024, https://arxiv.org/abs/2402.11592
    """
    _checks.choice("undo", undo, ("keep", "step"))
    inner = or_rge(estimator)
    _checks.transform("optimizer", optimizer)
    estimated = value_and_grad(loss, inner, axis_name=axis_name)

    def value(params, batch):
        return pmean(loss(params, batch), axis_name)

    def init(params, key):
        return start(params, optimizer.init(params), key)

    def step(state, batch):
        key = jax.random.fold_in(state.key, state.count)
        _, gradient = estimated(state.params, batch, key, state.count)

        def move(params, opt_state, times):
            scaled = jax.tree.map(lambda g: times * g, gradient)
            updates, opt_state = optimizer.update(scaled, opt_state, params)
            return optax.apply_updates(params, updates), opt_state

        here = value(state.params, batch)
        params, opt_state = move(state.params, state.opt_state, 1)
        after = value(params, batch)
        if undo == "keep":
            reverse = jax.tree.map(lambda p, q: (p - (q - p)).astype(p.dtype), state.params, params)
        else:
            reverse, opt_state = move(params, opt_state, -2)
        behind = value(reverse, batch)
        stay, go, turn = (jnp.where(jnp.isnan(v), jnp.inf, v) for v in (here, after, behind))
        choice = jnp.where(go > stay, jnp.where(stay < turn, 0, 2), jnp.where(go < turn, 1, 2))
        if undo == "keep":
            points = (state.params, params, reverse)
            params = jax.tree.map(lambda *x: jax.lax.select_n(choice, *x), *points)
        else:
            params, opt_state = jax.lax.switch(
                choice,
                [
                    lambda: move(reverse, opt_state, 1),
                    lambda: move(reverse, opt_state, 2),
                    lambda: (reverse, opt_state),
                ],
            )
        count = inner.evaluations(state.params) + 3
        metrics = {"loss": here, "choice": choice, "evaluations": jnp.float32(count)}
        return DescentState(state.count + 1, params, opt_state, state.key), metrics

    return Solver(init, step)
