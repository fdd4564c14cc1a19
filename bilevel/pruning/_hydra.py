"""Hydra: masks learned by popup scores on fixed weights."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from bilevel.pruning import _common, criteria
from bilevel.pruning import masks as masks_lib
from optim import _checks

__all__ = ["hydra"]


def hydra(
    tx: optax.GradientTransformation,
    density: float,
    *,
    scope: str = "layer",
    compatibility: str | None = None,
    rule: masks_lib.Rule | None = None,
    axis_name: str | None = None,
) -> _common.PruningSolver:
    r"""Hydra (edge-popup on trained weights): straight-through updates of scores.

    .. math::
      s \leftarrow \mathrm{tx}\left(s,\; \mathrm{sign}(s) \odot \theta \odot
      \nabla_z \ell(z)\right), \quad z = m \odot \theta, \quad
      m = \text{the entries of largest } |s| \text{ in each layer}

    The weights do not move; fine-tune them afterwards with :func:`bilevel.sparse_training` under
    the masks found.

    Args:
      tx: Optimizer of the scores.
      density: Share of each layer to keep, in (0, 1].
      scope: ``"layer"`` as in the paper, or ``"global"``.
      compatibility: ``"official"`` for what the BiP authors' Hydra computes: scores and weights are
        one tensor, so that the weights move with the scores. Their masks are cut globally.
      rule: Which leaves are prunable.
      axis_name: Mapped axis to average over inside the user's own ``pmap`` or ``shard_map``.

    Returns:
      A solver of three functions: ``init(loss, params, stats=None, *, scores=None)`` starts from a
      dense model (default scores: :func:`bilevel.criteria.popup`), ``step(state, batch)`` updates
      the scores, with metrics ``loss``, ``density`` and ``flips``, and ``export(state)`` returns
      ``(params, masks)`` with exact zeros.

    Raises:
      ValueError: On a value outside its range.

    Example:
      >>> import jax.numpy as jnp, optax, bilevel
      >>> solver = bilevel.hydra(optax.sgd(1.0), density=0.5)
      >>> loss = lambda params, x: jnp.mean((x @ params["w"] - 1) ** 2)
      >>> state = solver.init(loss, {"w": jnp.array([[0.9], [1.0]])})
      >>> for _ in range(5):
      ...   state, _ = solver.step(state, jnp.array([[1.0, -1.0]]))
      >>> state.masks["w"][:, 0]
      Array([ True, False], dtype=bool)

    References:
      Sehwag et al., HYDRA: Pruning Adversarially Robust Neural Networks, NeurIPS 2020.
    """
    _checks.number("density", density, 0, 1, open_low=True)
    if compatibility is not None:
        _checks.choice("compatibility", compatibility, ["official"], "None")
    _checks.transform("tx", tx)
    cut = masks_lib.Cut(scope=scope)

    def init(
        loss: Callable[..., Any], params: Any, stats: Any = None, *, scores: Any = None
    ) -> _common.ScoreState:
        if scores is None:
            scores = (masks_lib.prunable if compatibility else criteria.popup)(params, rule)
        start = _common.start
        return start(loss, params, stats, scores, density, cut, lambda _, s: tx.init(s))

    def step(state: _common.ScoreState, batch: Any) -> tuple[_common.ScoreState, dict[str, Any]]:
        z = masks_lib.apply(state.masks, state.params)
        value, stats, g = _common.gradient(state.loss, z, state.stats, batch, axis_name)
        h = masks_lib.map_leaves(
            lambda s, theta, g: None if s is None else jnp.sign(s) * theta * g,
            state.scores, state.params, g,
        )  # fmt: skip
        updates, opt = tx.update(h, state.opt, state.scores)
        scores = optax.apply_updates(state.scores, updates)
        masks = masks_lib.from_counts(scores, state.drop, cut)
        metrics = {
            "loss": value,
            "density": masks_lib.density(masks),
            "flips": _common.flips(state.masks, masks),
        }
        params = state.params
        if compatibility:
            params = masks_lib.map_leaves(lambda s, p: p if s is None else s, scores, params)
        state = state._replace(
            count=state.count + 1, params=params, stats=stats, scores=scores, masks=masks, opt=opt
        )
        return state, metrics

    def export(state: _common.ScoreState) -> tuple[Any, Any]:
        return masks_lib.apply(state.masks, state.params), state.masks

    return _common.PruningSolver(init, step, export, axis_name)
