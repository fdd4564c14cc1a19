"""Hydra: masks learned by popup scores on fixed weights."""

from typing import Any

import jax.numpy as jnp
import optax

from bilevel.problem import Problem, Solver
from bilevel.pruning import _common, criteria
from bilevel.pruning import masks as masks_lib
from optim import _checks

__all__ = ["hydra"]


def hydra(
    upper_step: Any,
    density: float,
    *,
    scope: str = "layer",
    authors: bool = False,
    rule: masks_lib.Rule | None = None,
    axis_name: str | None = None,
) -> Solver:
    r"""Hydra (edge-popup on trained weights): straight-through updates of scores.

    .. math::
      s \leftarrow \mathrm{upper}\left(s,\; \mathrm{sign}(s) \odot \theta \odot
      \nabla_z \ell(z)\right), \quad z = m \odot \theta, \quad
      m = \text{the entries of largest } |s| \text{ in each layer}

    The weights do not move; fine-tune them afterwards with :func:`bilevel.sparse_training` under
    the masks found.

    Args:
      upper_step: Step of the scores: an optax optimizer, or a number or schedule for SGD.
      density: Share of each layer to keep, in (0, 1].
      scope: ``"layer"`` as in the paper, or ``"global"``.
      authors: True for what the BiP authors' Hydra computes: scores and weights are one tensor, so
        that the weights move with the scores. Their masks are cut globally.
      rule: Which leaves are prunable.
      axis_name: Mapped axis to average over inside the user's own ``pmap`` or ``shard_map``.

    Returns:
      A :class:`bilevel.Solver`. ``init(problem, x0, y0, *, stats=None)`` takes a problem of
      :func:`bilevel.pruning.problem`, scores ``x0`` (None: :func:`bilevel.criteria.popup`) and the
      parameters ``y0`` of a dense model. ``step(state, batch)`` updates the scores, with metrics
      ``loss``, ``density`` and ``flips``. ``export(state)`` returns ``(params, masks)`` with exact
      zeros.

    Raises:
      ValueError: On a value outside its range.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> solver = bilevel.hydra(1.0, density=0.5)
      >>> loss = lambda params, x: jnp.mean((x @ params["w"] - 1) ** 2)
      >>> problem = bilevel.pruning.problem(loss)
      >>> state = solver.init(problem, None, {"w": jnp.array([[0.9], [1.0]])})
      >>> for _ in range(5):
      ...   state, _ = solver.step(state, jnp.array([[1.0, -1.0]]))
      >>> state.masks["w"][:, 0]
      Array([ True, False], dtype=bool)

    References:
      Sehwag et al., HYDRA: Pruning Adversarially Robust Neural Networks, NeurIPS 2020.
    """
    _checks.number("density", density, 0, 1, open_low=True)
    _checks.flag("authors", authors)
    tx, cut = _common.step("upper_step", upper_step), masks_lib.Cut(scope=scope)

    def init(problem: Problem, x0: Any, y0: Any, *, stats: Any = None) -> _common.ScoreState:
        if x0 is None:
            x0 = (masks_lib.prunable if authors else criteria.popup)(y0, rule)
        return _common.start(problem, x0, y0, stats, density, cut, lambda _, s: tx.init(s))

    def step(state: _common.ScoreState, batch: Any) -> tuple[_common.ScoreState, dict[str, Any]]:
        z = masks_lib.apply(state.masks, state.y)
        value, stats, g = _common.gradient(state, z, batch, axis_name)

        def straight_through(s, theta, g):
            return None if s is None else jnp.sign(s) * theta * g

        h = masks_lib.map_leaves(straight_through, state.x, state.y, g)
        updates, opt = tx.update(h, state.opt, state.x)
        x = optax.apply_updates(state.x, updates)
        masks = masks_lib.from_counts(x, state.drop, cut)
        metrics = {
            "loss": value,
            "density": masks_lib.density(masks),
            "flips": _common.flips(state.masks, masks),
        }
        y = state.y
        if authors:
            y = masks_lib.map_leaves(lambda s, p: p if s is None else s, x, y)
        count = state.count + 1
        return state._replace(count=count, x=x, y=y, stats=stats, masks=masks, opt=opt), metrics

    return _common.score_solver("hydra", init, step, axis_name)
