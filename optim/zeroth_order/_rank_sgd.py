"""Optimization by ranks alone: an oracle says which of several points are the best."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optim import _checks
from optim.zeroth_order._descent import Solver
from optim.zeroth_order._directions import draw
from optim.zeroth_order._estimator import check_mu, check_params, moved

__all__ = ["RankState", "by_value", "rank_direction", "rank_sgd", "rank_weights"]


def rank_weights(samples: int, best: int, zero_sum: bool = True) -> jax.Array:
    r"""Weights of the directions from best to worst, over the number of known comparisons.

    .. math::
      w_t = \frac{m - 1 - 2t}{|E|} \;(t < k), \qquad w_t = -\frac{k}{|E|} \;(t \ge k), \qquad
      |E| = \tfrac{k(k-1)}2 + k(m - k)

    the sum over all pairs that the ranking of the best k of m orders: plus one for the better.

    Args:
      samples: Number m of points.
      best: Number k of points that are ranked, 1 <= k <= m.
      zero_sum: ``False`` takes :math:`m - 2t` for the ranked ones as the authors' program does:
        the weights then sum to :math:`k / |E|`.

    Returns:
      Array of shape ``(samples,)``.

    Raises:
      ValueError: If an argument is out of its range.

    Example:
      >>> from optim import zeroth_order
      >>> (9 * zeroth_order.rank_weights(5, 3)).round(2)
      Array([ 4.,  2.,  0., -3., -3.], dtype=float32)
    """
    _checks.count("samples", samples, 2)
    _checks.count("best", best)
    if best > samples:
        raise ValueError(f"best must be <= samples={samples}, got {best}")
    t = jnp.arange(samples, dtype=float)
    ranked = samples - 2 * t - (1 if zero_sum else 0)
    return jnp.where(t < best, ranked, -best) / (best * (best - 1) / 2 + best * (samples - best))


def by_value(loss: Callable[[Any, Any], jax.Array]) -> Callable[[Any, int, Any], jax.Array]:
    """Returns the oracle that ranks points by their losses.

    Args:
      loss: ``loss(params, batch)``, a real scalar.

    Returns:
      ``oracle(points, k, batch)``: indices of the best k, best first; of equal ones the first is
      better, and NaN is worse than all numbers.

    Example:
      >>> import jax.numpy as jnp, optim
      >>> oracle = optim.zeroth_order.by_value(lambda w, batch: w**2)
      >>> oracle(jnp.array([3.0, -1.0, 2.0]), 2, None)
      Array([1, 2], dtype=int32)
    """

    def oracle(points, best, batch):
        return jnp.argsort(jax.vmap(lambda p: loss(p, batch))(points), stable=True)[:best]

    return oracle


def rank_direction(
    oracle: Callable[[Any, int, Any], jax.Array],
    mu: float = 0.1,
    samples: int = 6,
    best: int = 3,
    *,
    distribution: str | Callable[..., Any] = "normal",
    compatibility: str | None = None,
) -> Callable[..., tuple[Any, Any]]:
    r"""Returns ``(params, batch, key) -> (direction, best point)`` from one ranking.

    .. math::
      d = -\sum_i w_{\mathrm{rank}(i)}\, z_i, \qquad \text{points } \theta + \mu z_i

    with the weights of :func:`rank_weights`: a descent step is :math:`\theta - \gamma d`, as
    with a gradient. It is the same for every increasing function of the loss.

    Args:
      oracle: ``oracle(points, k, batch)``: indices of the best k, best first, of points stacked
        on a first axis; :func:`by_value` makes one of a loss.
      mu: Length of a perturbation, > 0.
      samples: Number m of points, at least 2.
      best: Number k of points that are ranked.
      distribution: As for :func:`rge`.
      compatibility: ``"official"`` takes the weights of the authors' program and leaves the
        factor ``mu`` in the direction.

    Raises:
      ValueError: If an argument is out of its range.

    Example:
      >>> import jax, jax.numpy as jnp, optim
      >>> zo = optim.zeroth_order
      >>> direction = zo.rank_direction(zo.by_value(lambda w, batch: w @ w))
      >>> d, best = direction(jnp.array([3.0, 4.0]), None, jax.random.key(0))
      >>> d.shape, best.shape
      ((2,), (2,))

    References:
      Tang et al., Zeroth-Order Optimization Meets Human Feedback, 2024,
      https://arxiv.org/abs/2303.03751
    """
    check_mu(mu)
    _check_compatibility(compatibility)
    official = compatibility == "official"
    weights = rank_weights(samples, best, zero_sum=not official)
    drawn = draw(distribution)

    def direction(params, batch, key):
        check_params(params)
        z = jax.vmap(lambda j: drawn(key, j, params))(jnp.arange(samples))
        points = jax.vmap(lambda zj: moved(params, zj, mu))(z)
        order = jnp.asarray(oracle(points, best, batch))
        # The others in any order: their weights are equal.
        place = jnp.full(samples, best).at[order].set(jnp.arange(best))
        w = weights[jnp.minimum(place, samples - 1)] * (mu if official else 1.0)
        d = jax.tree.map(lambda x: -jnp.tensordot(w.astype(x.dtype), x, 1), z)
        return d, jax.tree.map(lambda x: x[order[0]], points)

    return direction


class RankState(NamedTuple):
    """State of :func:`rank_sgd`.

    Attributes:
      count: Finished steps, int32 of shape ``()``.
      params: The best point so far.
      direction: Mean of the directions since the point last moved; zeros after a move.
      averaged: Number of directions in it, int32 of shape ``()``.
      key: Key of all directions.
    """

    count: jax.Array
    params: Any
    direction: Any
    averaged: jax.Array
    key: jax.Array


def rank_sgd(
    oracle: Callable[[Any, int, Any], jax.Array],
    step_size: float = 1.0,
    mu: float = 0.1,
    samples: int = 6,
    best: int = 3,
    line: int = 7,
    *,
    distribution: str | Callable[..., Any] = "normal",
    compatibility: str | None = None,
) -> Solver:
    r"""ZO-RankSGD with line search.

    .. math::
      D \leftarrow \frac{a D + d}{a + 1}, \qquad
      \theta^+ = \text{best of } \{\theta - \gamma 2^{-j} D\}_{j < L - 2},\;
      \theta + \mu z_{\mathrm{best}},\; \theta

    If :math:`\theta` wins, the next direction is averaged into D (:math:`a \leftarrow a + 1`);
    otherwise :math:`D = a = 0`.

    Args:
      oracle: As for :func:`rank_direction`.
      step_size: Longest step :math:`\gamma`, > 0.
      mu: Length of a perturbation, > 0.
      samples: Number m of points of a ranking, at least 2.
      best: Number k of points that are ranked.
      line: Number L of candidates of the line search, at least 3.
      distribution: As for :func:`rge`.
      compatibility: As for :func:`rank_direction`.

    Returns:
      The solver. Its metrics are ``choice`` (the candidate that won, in the order above) and
      ``evaluations``: m and L - 2, the last two candidates being known.

    Raises:
      ValueError: If an argument is out of its range.

    Example:
      >>> import jax, jax.numpy as jnp, optim
      >>> zo = optim.zeroth_order
      >>> solver = zo.rank_sgd(zo.by_value(lambda w, batch: w @ w))
      >>> state = solver.init(jnp.array([3.0, 4.0]), jax.random.key(0))
      >>> step = jax.jit(solver.step)
      >>> for _ in range(50):
      ...     state, metrics = step(state, None)
      >>> bool(state.params @ state.params < 0.1)
      True

    References:
      Tang et al., Zeroth-Order Optimization Meets Human Feedback, 2024,
      https://arxiv.org/abs/2303.03751
    """
    _checks.number("step_size", step_size, 0, open_low=True)
    _checks.count("line", line, 3)
    ranked = rank_direction(
        oracle, mu, samples, best, distribution=distribution, compatibility=compatibility
    )
    lengths = step_size * 0.5 ** jnp.arange(line - 2)

    def init(params, key):
        check_params(params)
        params = jax.tree.map(jnp.asarray, params)
        # Two zeros: a buffer cannot be donated twice.
        count, averaged = jnp.zeros([], jnp.int32), jnp.zeros([], jnp.int32)
        return RankState(count, params, jax.tree.map(jnp.zeros_like, params), averaged, key)

    def step(state, batch):
        params, a = state.params, state.averaged
        d, found = ranked(params, batch, jax.random.fold_in(state.key, state.count))
        mean = jax.tree.map(
            lambda old, new: ((a * old + new) / (a + 1)).astype(old.dtype), state.direction, d
        )
        steps = jax.vmap(lambda length: moved(params, mean, -length))(lengths)
        points = jax.tree.map(
            lambda s, f, x: jnp.concatenate([s, f[None], x[None]]), steps, found, params
        )
        choice = jnp.asarray(oracle(points, 1, batch))[0]
        stayed = choice == line - 1
        new = RankState(
            state.count + 1,
            jax.tree.map(lambda x: x[choice], points),
            jax.tree.map(lambda x: jnp.where(stayed, x, 0), mean),
            jnp.where(stayed, a + 1, 0),
            state.key,
        )
        return new, {"choice": choice, "evaluations": jnp.float32(samples + line - 2)}

    return Solver(init, step)


def _check_compatibility(compatibility) -> None:
    if compatibility not in (None, "official"):
        raise ValueError(f"compatibility must be None or 'official', got {compatibility!r}")
