"""BiP: pruning as bilevel optimization (Zhang et al., NeurIPS 2022)."""

from typing import Any

from bilevel.problem import Solver
from bilevel.pruning import _common
from bilevel.pruning import masks as masks_lib
from bilevel.pruning._bip_official import hypergradient as their_hypergradient
from bilevel.pruning._bip_official import official
from bilevel.pruning._bip_paper import Levels, hypergradient, paper
from optim import _checks

__all__ = ["bip"]


def bip(
    lower_step: Any,
    upper_step: Any,
    density: float,
    *,
    curvature: float = 1e4,
    second_order: bool = True,
    authors: bool | str = False,
    lower_steps: int = 1,
    cut: masks_lib.Cut | None = None,
    rule: masks_lib.Rule | None = None,
    axis_name: str | None = None,
    **fields: Any,
) -> Solver:
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
    At a score of zero :math:`\mathrm{sign}` is 1, so that it can leave it.

    Args:
      lower_step: Step of all parameters: an optax optimizer, or a number or schedule for SGD.
        Weight decay belongs in it. It sees masked gradients, so decay and momentum go on in pruned
        weights, as in the paper.
      upper_step: Step of the scores, alike.
      density: Share of the prunable weights (filters, channels) to keep, in (0, 1].
      curvature: Curvature :math:`\gamma > 0` of the lower level; the authors' 1/gamma is 1e-4.
        Infinity leaves the implicit term out.
      second_order: Whether the hypergradient has its implicit term. False is the accelerated,
        alternating variant of the authors' code: first the scores, then the weights.
      authors: True for what the authors' program computes: scores and weights are one tensor, both
        optimizers hold every parameter and so decay and carry momentum where they should be
        frozen, BatchNorm's weights are trained at both levels and its statistics see four forward
        passes per step, the implicit term is :math:`\tfrac1\gamma (\partial\ell/\partial s)^2`,
        and the export cuts masks per layer. ``"unaliased"`` is the same with scores of their own,
        ``"implicit"`` the paper's algorithm with their implicit term.
      lower_steps: Updates of the weights per update of the scores.
      cut: How masks are cut from scores; see :class:`bilevel.masks.Cut`.
      rule: Which leaves are prunable; see :func:`bilevel.masks.prunable`.
      axis_name: Mapped axis to average over inside the user's own ``pmap`` or ``shard_map``.
      **fields: Fields of the cut, such as ``structure="filter"``.

    Returns:
      A :class:`bilevel.Solver`.

      ``init(problem, x0, y0, *, stats=None, density=None)`` takes a problem of
      :func:`bilevel.pruning.problem`, scores ``x0`` and parameters ``y0``, usually a dense, trained
      model. Scores of None are a copy of the weights, in which a weight of 0 has a random score
      below all others. ``density`` replaces the solver's: it is data, so that states of several
      densities (or seeds) may be stacked and stepped by ``jax.vmap``.

      ``step(state, (upper_batch, lower_batch))`` makes ``lower_steps`` updates of the weights (with
      more than one, ``lower_batch`` has a leading axis of that length), one of the scores, and new
      masks. Its metrics are ``loss_lower`` and ``loss_upper``, each before its update, ``density``
      and ``flips``, the number of mask entries that changed.

      ``export(state)`` returns ``(params, masks)``, the parameters with exact zeros.

    Raises:
      ValueError: On a value outside its range.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> solver = bilevel.bip(0.1, 1.0, density=0.5)
      >>> loss = lambda params, batch: jnp.mean((batch @ params["w"] - 1) ** 2)
      >>> problem = bilevel.pruning.problem(loss)
      >>> state = solver.init(problem, None, {"w": jnp.array([[0.1], [0.2]])})
      >>> batch = jnp.array([[1.0, 0.0]])
      >>> for _ in range(20):
      ...   state, metrics = solver.step(state, (batch, batch))
      >>> state.masks["w"][:, 0]
      Array([ True, False], dtype=bool)

    References:
      Zhang et al., Advancing Model Pruning via Bi-level Optimization, NeurIPS 2022.
    """
    _checks.number("density", density, 0, 1, open_low=True)
    _checks.number("curvature", curvature, 0, open_low=True, infinite=True)
    if not isinstance(authors, bool):
        _checks.choice("authors", authors, ["unaliased", "implicit"], "a bool")
    _checks.count("lower_steps", lower_steps)
    program = authors in (True, "unaliased")
    if program and lower_steps > 1:
        raise ValueError(f"authors={authors!r} has lower_steps=1, got {lower_steps}")
    tx = Levels(_common.step("lower_step", lower_step), _common.step("upper_step", upper_step))
    cut = masks_lib.cut_of(cut, **fields)
    if program:
        alias = authors is True
        return official(tx, density, curvature, second_order, alias, cut, rule, axis_name)
    term = their_hypergradient if authors == "implicit" else hypergradient
    return paper(tx, density, curvature, second_order, lower_steps, cut, rule, axis_name, term)
