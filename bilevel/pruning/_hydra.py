"""Hydra: masks learned by popup scores on fixed weights."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import optim
from bilevel.pruning import criteria
from bilevel.pruning import masks as masks_lib
from bilevel.pruning._loss import Static, call_loss
from optim import _checks

__all__ = ["Hydra", "HydraState", "hydra"]


class HydraState(NamedTuple):
    """State of :func:`hydra`."""

    loss: Static
    count: jax.Array
    params: Any
    stats: Any
    scores: Any
    masks: Any
    drop: Any
    opt: Any


@dataclasses.dataclass(frozen=True)
class Hydra:
    """The solver that :func:`hydra` returns."""

    tx: optax.GradientTransformation
    density: float
    scope: str
    compatibility: str | None
    rule: masks_lib.Rule | None
    axis_name: str | None

    def init(
        self, loss: Callable[..., Any], params: Any, stats: Any = None, *, scores: Any = None
    ) -> HydraState:
        """Starts from a dense model; default scores are :func:`bilevel.criteria.popup`."""
        params, stats = jax.tree.map(jnp.array, (params, stats))
        if scores is None:
            alias = self.compatibility is not None
            start = masks_lib.prunable if alias else criteria.popup
            scores = start(params, self.rule)
        scores = jax.tree.map(jnp.array, scores)
        drop = masks_lib.drop_counts(scores, self.density, self.scope)
        drop = jax.tree.map(lambda j: jnp.asarray(j, jnp.int32), drop)
        masks = masks_lib.from_counts(scores, drop, self.scope)
        return HydraState(
            Static(loss), jnp.int32(0), params, stats, scores, masks, drop, self.tx.init(scores)
        )

    def step(self, state: HydraState, batch: Any) -> tuple[HydraState, dict[str, Any]]:
        """One update of the scores; metrics ``loss``, ``density`` and ``flips``."""
        z = masks_lib.apply(state.masks, state.params)
        fun = functools.partial(call_loss, state.loss.value)
        vg = optim.parallel.value_and_grad(fun, has_aux=True, axis_name=self.axis_name)
        (value, stats), g = vg(z, state.stats, batch)
        h = masks_lib.map_leaves(
            lambda s, theta, g: None if s is None else jnp.sign(s) * theta * g,
            state.scores, state.params, g,
        )  # fmt: skip
        updates, opt = self.tx.update(h, state.opt, state.scores)
        scores = optax.apply_updates(state.scores, updates)
        masks = masks_lib.from_counts(scores, state.drop, self.scope)
        flips = masks_lib.count(jax.tree.map(jnp.logical_xor, state.masks, masks))
        metrics = {"loss": value, "density": masks_lib.density(masks), "flips": flips}
        params = state.params
        if self.compatibility:
            params = masks_lib.map_leaves(lambda s, p: p if s is None else s, scores, params)
        state = state._replace(
            count=state.count + 1, params=params, stats=stats, scores=scores, masks=masks, opt=opt
        )
        return state, metrics


def hydra(
    tx: optax.GradientTransformation,
    density: float,
    *,
    scope: str = "layer",
    compatibility: str | None = None,
    rule: masks_lib.Rule | None = None,
    axis_name: str | None = None,
) -> Hydra:
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
      A solver ``init(loss, params, stats=None)``, ``step(state, batch)``.

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
    masks_lib.check_structure("weight", scope)
    if compatibility is not None:
        _checks.choice("compatibility", compatibility, ["official"], "None")
    _checks.transform("tx", tx)
    return Hydra(tx, density, scope, compatibility, rule, axis_name)
