"""BiP: pruning as bilevel optimization (Zhang et al., NeurIPS 2022)."""

from typing import Any

import optax

from bilevel.pruning import masks as masks_lib
from bilevel.pruning._bip_official import official
from bilevel.pruning._bip_paper import Levels, paper
from bilevel.pruning._common import PruningSolver
from optim import _checks

__all__ = ["bip"]


def bip(
    lower: optax.GradientTransformation,
    upper: optax.GradientTransformation,
    density: float,
    *,
    gamma: float = 1e4,
    second_order: bool = True,
    implicit: str = "paper",
    compatibility: str | None = None,
    lower_steps: int = 1,
    cut: masks_lib.Cut | None = None,
    rule: masks_lib.Rule | None = None,
    axis_name: str | None = None,
    **fields: Any,
) -> PruningSolver:
    r"""BiP: bilevel pruning by stochastic projected gradients (SPGD).

    .. math::
      \min_{m \in S}\; \ell(m \odot \theta^*(m)), \qquad
      \theta^*(m) = \arg\min_\theta\; \ell(m \odot \theta) + \tfrac{\gamma}{2}\|\theta\|^2

    with :math:`S` the binary masks of a given density. Each step updates the weights on the
    lower batch, then the scores on the upper batch, with :math:`g = \nabla_z \ell(z)` at
    :math:`z = m \odot \theta`:

    .. math::
      \theta &\leftarrow \mathrm{lower}(\theta,\; m \odot g) \\
      s &\leftarrow \mathrm{upper}\left(s,\; \mathrm{sign}(s) \odot
          \left(\theta - \tfrac{1}{\gamma}\, m \odot g\right) \odot g\right) \\
      m &= \text{the entries of largest } |s|

    The two terms of the hypergradient come from the same backward pass, so that a step costs two.
    BatchNorm normalizes by its batch at both levels; its running statistics follow the lower one.

    Args:
      lower: Optimizer of all parameters. Weight decay belongs in it. It sees masked gradients, so
        decay and momentum go on in pruned weights, as in the paper.
      upper: Optimizer of the scores.
      density: Share of the prunable weights (filters, channels) to keep, in (0, 1].
      gamma: Curvature :math:`\gamma > 0` of the lower level; the authors' 1/gamma is 1e-4.
        Infinity leaves the implicit term out.
      second_order: Whether the hypergradient has its implicit term. False is the accelerated,
        alternating variant of the authors' code: first the scores, then the weights.
      implicit: ``"paper"``, as above, or ``"official"``: the authors' code subtracts
        :math:`\tfrac1\gamma (\partial\ell/\partial s)^2` instead.
      compatibility: ``None``, or ``"official"`` for what the authors' program computes: scores
        and weights are one tensor, both optimizers hold every parameter and so decay and carry
        momentum where they should be frozen, BatchNorm's weights are trained at both levels and
        its statistics see four forward passes a step, the implicit term is the official one, and
        the export cuts masks per layer. ``"official_unaliased"`` is the same with scores of
        their own.
      lower_steps: Updates of the weights per update of the scores.
      cut: How masks are cut from scores; see :class:`bilevel.masks.Cut`.
      rule: Which leaves are prunable; see :func:`bilevel.masks.prunable`.
      axis_name: Mapped axis to average over inside the user's own ``pmap`` or ``shard_map``.
      **fields: Fields of the cut, such as ``structure="filter"``.

    Returns:
      A solver of three functions.

      ``init(loss, params, stats=None, *, scores=None, density=None)`` starts from ``params``,
      usually a dense, trained model, with ``loss(params, batch) -> scalar``, or, where ``stats``
      (such as BatchNorm's) are given, ``loss(params, stats, batch) -> (scalar, new_stats)``. The
      first ``scores`` are a copy of the weights. ``density`` replaces the solver's: it is data, so
      that states of several densities (or seeds) may be stacked and stepped by ``jax.vmap``.

      ``step(state, (batch_lower, batch_upper))`` makes ``lower_steps`` updates of the weights (with
      more than one, ``batch_lower`` has a leading axis of that length), one of the scores, and new
      masks. Its metrics are ``loss_lower`` and ``loss_upper``, each before its update, ``density``
      and ``flips``, the number of mask entries that changed.

      ``export(state)`` returns ``(params, masks)``, the parameters with exact zeros.

    Raises:
      ValueError: On a value outside its range.

    Example:
      >>> import jax, jax.numpy as jnp, optax, bilevel
      >>> solver = bilevel.bip(optax.sgd(0.1), optax.sgd(1.0), density=0.5)
      >>> loss = lambda params, batch: jnp.mean((batch @ params["w"] - 1) ** 2)
      >>> state = solver.init(loss, {"w": jnp.array([[0.1], [0.2]])})
      >>> batch = jnp.array([[1.0, 0.0]])
      >>> for _ in range(20):
      ...   state, metrics = solver.step(state, (batch, batch))
      >>> state.masks["w"][:, 0]
      Array([ True, False], dtype=bool)

    References:
      Zhang et al., Advancing Model Pruning via Bi-level Optimization, NeurIPS 2022.
    """
    _checks.number("density", density, 0, 1, open_low=True)
    _checks.number("gamma", gamma, 0, open_low=True, infinite=True)
    _checks.choice("implicit", implicit, ["paper", "official"])
    if compatibility is not None:
        _checks.choice("compatibility", compatibility, ["official", "official_unaliased"], "None")
    _checks.count("lower_steps", lower_steps)
    _checks.transform("lower", lower)
    _checks.transform("upper", upper)
    if compatibility and lower_steps > 1:
        raise ValueError(f"compatibility has lower_steps=1, got {lower_steps}")
    cut, tx = masks_lib.cut_of(cut, **fields), Levels(lower, upper)
    if compatibility:
        alias = compatibility == "official"
        return official(tx, density, gamma, second_order, alias, cut, rule, axis_name)
    return paper(tx, density, gamma, second_order, implicit, lower_steps, cut, rule, axis_name)
