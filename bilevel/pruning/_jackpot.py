"""Lottery jackpots: masks of a trained model that are searched by scores, while weights stay."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from bilevel.problem import Problem, Solver
from bilevel.pruning import _common
from bilevel.pruning import masks as masks_lib
from optim import _checks

__all__ = ["jackpot"]


def jackpot(
    upper_step: Any,
    density: Any,
    *,
    authors: bool = False,
    rule: masks_lib.Rule | None = None,
    axis_name: str | None = None,
) -> Solver:
    r"""Lottery jackpots: straight-through updates of scores that start from magnitudes.

    .. math::
      s \leftarrow \mathrm{upper}(s,\; \theta \odot \nabla_z \ell(z)), \quad z = m \odot \theta,
      \quad m = \text{the largest } s \text{ of each layer}, \qquad
      s_0 = \begin{cases} 1 & \text{the largest } |\theta| \\ 0.99 & \text{the others}\end{cases}

    The weights do not move, so that one trained model serves all densities. Hydra
    (:func:`bilevel.hydra`) differs by its start and by masks of :math:`|s|`.

    Args:
      upper_step: Step of the scores: an optax optimizer, or a number or schedule for SGD.
      density: Share of each layer to keep, in (0, 1]; or a tree of shares for the prunable leaves.
      authors: Whether masks change as in the authors' program: what is dropped with a score above
        the :math:`\lfloor (1-d) n \rfloor`-th smallest, and what is kept with one not above it,
        change places where both are equally many; elsewhere nothing does. (Their limit on the
        number of changes, :math:`\lceil (1 - e/E)^4 \rceil`, is always 1 and limits none.)
      rule: Which leaves are prunable.
      axis_name: Mapped axis to average over inside the user's own ``pmap`` or ``shard_map``.

    Returns:
      A :class:`bilevel.Solver`. ``init(problem, x0, y0, *, stats=None)`` takes a problem of
      :func:`bilevel.pruning.problem`, scores ``x0`` (None: as above) and the parameters ``y0`` of a
      trained model. ``step(state, batch)`` updates the scores, with metrics ``loss``, ``density``
      and ``flips``. ``export(state)`` returns ``(params, masks)`` with exact zeros.

    Raises:
      ValueError: On a value outside its range.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> solver = bilevel.jackpot(0.1, density=0.5)
      >>> loss = lambda params, x: jnp.mean((x @ params["w"] - 1) ** 2)
      >>> problem = bilevel.pruning.problem(loss)
      >>> state = solver.init(problem, None, {"w": jnp.array([[0.9], [1.0]])})
      >>> for _ in range(5):
      ...   state, _ = solver.step(state, jnp.array([[1.0, -1.0]]))
      >>> state.masks["w"][:, 0]
      Array([ True, False], dtype=bool)

    References:
      Zhang et al., Lottery Jackpots Exist in Pre-trained Models, TPAMI 2023.
    """
    for d in jax.tree.leaves(density):
        _checks.number("density", d, 0, 1, open_low=True)
    _checks.flag("authors", authors)
    tx, cut = _common.step("upper_step", upper_step), masks_lib.Cut(scope="layer", absolute=False)

    def init(problem: Problem, x0: Any, y0: Any, *, stats: Any = None) -> _common.ScoreState:
        if x0 is None:
            chosen = masks_lib.prunable(y0, rule)
            masks = masks_lib.from_scores(chosen, density, scope="layer")
            x0 = jax.tree.map(lambda m, w: jnp.where(m, 1.0, 0.99).astype(w.dtype), masks, chosen)
        return _common.start(problem, x0, y0, stats, density, cut, lambda _, s: tx.init(s))

    def swapped(mask: Any, s: Any, drop: Any) -> Any:
        threshold = jnp.sort(s.ravel())[jnp.maximum(drop - 1, 0)]
        enter, leave = ~mask & (s > threshold), mask & (s <= threshold)
        return jnp.where(enter.sum() == leave.sum(), (mask | enter) & ~leave, mask)

    def step(state: _common.ScoreState, batch: Any) -> tuple[_common.ScoreState, dict[str, Any]]:
        z = masks_lib.apply(state.masks, state.y)
        value, stats, g = _common.gradient(state, z, batch, axis_name)

        def straight_through(s, theta, g):
            return None if s is None else theta * g

        h = masks_lib.map_leaves(straight_through, state.x, state.y, g)
        updates, opt = tx.update(h, state.opt, state.x)
        x = optax.apply_updates(state.x, updates)
        if authors:
            masks = jax.tree.map(swapped, state.masks, x, state.drop)
        else:
            masks = masks_lib.from_counts(x, state.drop, cut)
        metrics = {
            "loss": value,
            "density": masks_lib.density(masks),
            "flips": _common.flips(state.masks, masks),
        }
        new = state._replace(count=state.count + 1, x=x, stats=stats, masks=masks, opt=opt)
        return new, metrics

    return _common.score_solver("jackpot", init, step, axis_name)
