"""MeZO: steps along random directions that are never stored."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optim import _checks
from optim.parallel import pmean
from optim.zeroth_order._descent import Solver
from optim.zeroth_order._directions import PIECE, leaf_keys, normal_piece, wide
from optim.zeroth_order._estimator import check_mu, check_params, check_value, warn_if_lost

__all__ = ["MeZOState", "mezo"]


class MeZOState(NamedTuple):
    """State of :func:`mezo`; there is no optimizer state.

    Attributes:
      count: Finished steps, int32 of shape ``()``.
      params: The parameters.
      key: Key of all directions.
    """

    count: jax.Array
    params: Any
    key: jax.Array


def mezo(
    loss: Callable[[Any, Any], jax.Array],
    learning_rate: float | Callable[[Any], Any],
    mu: float = 1e-3,
    samples: int = 1,
    *,
    weight_decay: float = 0.0,
    axis_name: str | None = None,
) -> Solver:
    r"""SGD on two-sided :func:`rge` in the memory of inference.

    .. math::
      s_j = \frac{f(\theta_t + \mu z_j) - f(\theta_t - \mu z_j)}{2\mu}, \qquad
      \theta_{t+1} = (1 - \eta_t\lambda)\,\theta_t - \frac{\eta_t}q \sum_{j=1}^q s_j z_j

    with normal directions. What is kept of a direction is its key: it is made again, 65,536
    numbers at a time, to perturb and to move. So a step needs one perturbed copy of the
    parameters besides the parameters, whatever the number of directions (temporaries of twelve
    512 x 512 matrices with 1 and 16 directions: 1.13 times the parameters on a CPU, .4 and .7 on a
    TPU v5e, by the compilers), less than backpropagation from a few hundred tokens of a
    batch on (``results/zeroth_order.md``). It equals ``value_and_grad`` of ``rge(mu, samples)``
    with SGD, to rounding; its many loops take a minute to compile for a LLaMA 60M. The authors'
    program moves the parameters themselves back and forth and leaves rounding errors in them; here
    each perturbation starts from the parameters.

    Args:
      loss: ``loss(params, batch)``, a real scalar.
      learning_rate: A number >= 0 or a schedule.
      mu: Length of a perturbation, > 0.
      samples: Number q of directions, at least 1.
      weight_decay: Decoupled decay :math:`\lambda`, >= 0.
      axis_name: As for :func:`value_and_grad`.

    Returns:
      The solver. Its metrics are ``loss`` (mean over all perturbed values), ``slope`` (root mean
      square of the s_j) and ``evaluations``. Donate the state: then it is overwritten in place, and
      with the first one the parameters given to ``init``, which makes no copy.

    Raises:
      ValueError: If an argument is out of its range, the loss is no real scalar, or a leaf is no
        real floating-point array.

    Example:
      >>> import jax, jax.numpy as jnp, optim
      >>> solver = optim.zeroth_order.mezo(lambda w, batch: w @ w, 0.05, samples=4)
      >>> state = solver.init(jnp.array([1.0, -2.0]), jax.random.key(0))
      >>> step = jax.jit(solver.step, donate_argnums=0)
      >>> for _ in range(100):
      ...     state, metrics = step(state, None)
      >>> bool(jnp.abs(state.params).max() < 0.01)
      True

    References:
      Malladi et al., Fine-Tuning Language Models with Just Forward Passes, 2023,
      https://arxiv.org/abs/2305.17333
    """
    _checks.number("learning_rate", learning_rate, 0, schedule=True)
    check_mu(mu)
    _checks.count("samples", samples)
    _checks.number("weight_decay", weight_decay, 0)

    def init(params, key):
        check_params(params)
        warn_if_lost(mu, params)
        return MeZOState(jnp.zeros([], jnp.int32), jax.tree.map(jnp.asarray, params), key)

    def step(state, batch):
        params, key = state.params, jax.random.fold_in(state.key, state.count)

        def f(at):
            value = loss(at, batch)
            check_value(value)
            return pmean(value, axis_name)

        def probe(j):
            above = add_normal(params, key, j, mu)
            plus = f(above)
            minus = f(jax.tree.map(lambda p, a: p - (a - p), params, above))
            return (plus + minus) / 2, (plus - minus) / (2 * mu)

        values, slopes = jax.lax.map(probe, jnp.arange(samples))
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        if weight_decay:
            params = jax.tree.map(lambda p: (p - rate * weight_decay * p).astype(p.dtype), params)
        params = jax.lax.fori_loop(
            0,
            samples,
            lambda j, at: add_normal(at, key, j, -rate * slopes[j] / samples),
            params,
        )
        metrics = {
            "loss": values.mean(),
            "slope": jnp.sqrt(jnp.mean(slopes**2)),
            "evaluations": jnp.float32(2 * samples),
        }
        return MeZOState(state.count + 1, params, state.key), metrics

    return Solver(init, step)


def add_normal(params: Any, key: jax.Array, probe: Any, distance: Any) -> Any:
    """Returns ``params + distance * z``, with the z of ``rge``, made and added piece by piece."""
    leaves, treedef = jax.tree.flatten(params)
    keys = leaf_keys(key, probe, len(leaves))
    return treedef.unflatten(
        [_add_to_leaf(x, k, distance) for x, k in zip(leaves, keys, strict=True)]
    )


def _add_to_leaf(leaf: jax.Array, key: jax.Array, distance: Any) -> jax.Array:
    def plus(x, z):
        return (x + jnp.asarray(distance, z.dtype) * z).astype(x.dtype)

    if leaf.size <= PIECE:
        return plus(leaf, jax.random.normal(key, leaf.shape, wide(leaf)))
    whole, rest = divmod(leaf.size, PIECE)

    def add_piece(i, flat):
        x = jax.lax.dynamic_slice(flat, (i * PIECE,), (PIECE,))
        return jax.lax.dynamic_update_slice(
            flat, plus(x, normal_piece(key, i, wide(leaf))), (i * PIECE,)
        )

    flat = jax.lax.fori_loop(0, whole, add_piece, leaf.reshape(-1))
    if rest:
        z = normal_piece(key, whole, wide(leaf))[:rest]
        flat = flat.at[whole * PIECE :].set(plus(flat[whole * PIECE :], z))
    return flat.reshape(leaf.shape)
