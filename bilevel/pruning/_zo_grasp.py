"""GraSP from function values alone."""

from collections.abc import Callable
from typing import Any

import jax

from bilevel.pruning import masks as masks_lib
from optim import _checks, zeroth_order
from optim.zeroth_order._deepzero import drifted, unit_directions
from optim.zeroth_order._directions import draw
from optim.zeroth_order._estimator import moved

__all__ = ["zo_grasp"]


def zo_grasp(
    f: Callable[[Any], jax.Array],
    params: Any,
    key: jax.Array,
    num: int = 192,
    mu: float = 5e-3,
    *,
    rule: masks_lib.Rule | None = None,
    distribution: str | Callable[..., Any] = "normal",
    score: str = "signed",
    compatibility: str | None = None,
) -> Any:
    r"""Gradient signal preservation with both gradients estimated by random directions.

    .. math::
      g_0 = \hat g(\theta), \quad g_1 = \hat g(\theta + \mu g_0), \quad
      s = \theta \odot \frac{g_1 - g_0}\mu

    Each estimate has directions of its own: 2(num + 1) forward passes. The sign is that of
    :func:`bilevel.criteria.grasp`: the largest is kept; the authors write the other one.

    Args:
      f: ``f(params)``, a real scalar: the loss on one batch.
      params: The parameters; those that cannot be pruned are not perturbed.
      key: Of the directions.
      num: Directions of an estimate, at least 1.
      mu: Length of a perturbation and of the step along g_0, > 0.
      rule: Which leaves are prunable; see :func:`bilevel.masks.prunable`.
      distribution: As for :func:`optim.zeroth_order.rge`.
      score: ``"signed"``, or ``"abs"`` for the absolute values that DeepZero's program prunes by.
      compatibility: ``"official"`` estimates as DeepZero's program does
        (:func:`optim.zeroth_order.deepzero_rge`): unit directions for each leaf, a first estimate
        that drifts, a second at where the first ends, and scores of the weights as the last
        forward pass leaves them.

    Returns:
      Scores like ``params``, ``None`` for leaves that are not prunable. Signed ones want
      ``absolute=False`` in :func:`bilevel.masks.from_scores`.

    Raises:
      ValueError: If an argument is out of its range.

    Example:
      >>> import jax, jax.numpy as jnp, bilevel
      >>> f = lambda p: (p["kernel"] ** 4).sum()
      >>> params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
      >>> scores = bilevel.criteria.zo_grasp(f, params, jax.random.key(0), num=4)
      >>> scores["kernel"].shape, scores["bias"]
      ((2, 3), None)

    References:
      Chen et al., DeepZero: Scaling up Zeroth-Order Optimization for Deep Model Training, 2024,
      https://arxiv.org/abs/2310.02025
    """
    _checks.choice("score", score, ("signed", "abs"))
    if compatibility not in (None, "official"):
        raise ValueError(f"compatibility must be None or 'official', got {compatibility!r}")
    if compatibility is None:
        first = second = zeroth_order.rge(mu, num, two_sided=False, distribution=distribution)
    else:
        first, second = (
            zeroth_order.deepzero_rge(mu, num, distribution, drift=drift) for drift in (True, False)
        )

    chosen = masks_lib.prunable(params, rule)

    def loss(z, _):
        return f(masks_lib.map_leaves(lambda new, x: x if new is None else new, z, params))

    def estimated(estimator, at, which):
        vg = zeroth_order.value_and_grad(loss, estimator)
        return vg(at, None, jax.random.fold_in(key, which))[1]

    official = compatibility is not None
    g0 = estimated(first, chosen, 0)
    if official:
        chosen = drifted(chosen, jax.random.fold_in(key, 0), mu, num, distribution)
    ahead = moved(chosen, g0, mu)
    g1 = estimated(second, ahead, 1)
    if official:
        unit = unit_directions(draw(distribution))
        chosen = moved(ahead, unit(jax.random.fold_in(key, 1), num - 1, ahead), mu)
    scores = jax.tree.map(lambda p, a, b: p * (b - a) / mu, chosen, g0, g1)
    return jax.tree.map(abs, scores) if score == "abs" else scores
