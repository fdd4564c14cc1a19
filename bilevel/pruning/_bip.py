"""BiP: pruning as bilevel optimization (Zhang et al., NeurIPS 2022)."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import optim
from bilevel.pruning import masks as masks_lib
from bilevel.pruning._loss import Static, call_loss, check_batches
from optim import _checks

__all__ = ["BiP", "BiPState", "bip"]


class BiPState(NamedTuple):
    """State of :func:`bip`; ``lower`` and ``upper`` are optimizer states."""

    loss: Static
    count: jax.Array
    params: Any
    stats: Any
    scores: Any
    masks: Any
    drop: Any
    lower: Any
    upper: Any


@dataclasses.dataclass(frozen=True)
class BiP:
    """The solver that :func:`bip` returns."""

    lower: optax.GradientTransformation
    upper: optax.GradientTransformation
    density: float
    gamma: float
    second_order: bool
    implicit: str
    compatibility: str | None
    scope: str | None
    structure: str
    min_keep: int
    lower_steps: int
    rule: masks_lib.Rule | None
    output_axis: int
    input_axis: int
    axis_name: str | None

    @property
    def _axes(self):
        return {"output_axis": self.output_axis, "input_axis": self.input_axis}

    def _masks(self, scores, drop):
        return masks_lib.from_counts(
            scores, drop, self.scope, self.structure, self.min_keep, **self._axes
        )

    def init(
        self,
        loss: Callable[..., Any],
        params: Any,
        stats: Any = None,
        *,
        scores: Any = None,
        density: float | None = None,
    ) -> BiPState:
        """Starts from ``params``, usually a dense, trained model.

        Args:
          loss: ``loss(params, batch) -> scalar``; with ``stats`` given,
            ``loss(params, stats, batch) -> (scalar, new_stats)``.
          params: Parameters; not changed.
          stats: Model statistics such as BatchNorm's, or None.
          scores: Initial scores, ``None`` where a leaf is not pruned; default a copy of the
            weights.
          density: Replaces the solver's. States of several densities (or seeds) may be stacked
            and stepped together by ``jax.vmap``: the density is data.
        """
        chosen = masks_lib.prunable(params, self.rule, self.structure)
        if scores is None:
            # Buffers of their own: the loop donates the state.
            scores = jax.tree.map(jnp.array, chosen)
        elif jax.tree.map(jnp.shape, scores) != jax.tree.map(jnp.shape, chosen):
            raise ValueError(
                f"scores do not fit the prunable leaves: {jax.tree.map(jnp.shape, scores)} "
                f"for {jax.tree.map(jnp.shape, chosen)}"
            )
        density = self.density if density is None else density
        drop = masks_lib.drop_counts(scores, density, self.scope, self.structure, **self._axes)
        drop = jax.tree.map(lambda j: jnp.asarray(j, jnp.int32), drop)
        params, stats = jax.tree.map(jnp.array, (params, stats))
        lower, upper = self.lower.init(params), self.upper.init(scores)
        if self.compatibility:
            lower, upper = (lower, self.lower.init(scores)), (self.upper.init(params), upper)
        return BiPState(
            Static(loss), jnp.int32(0), params, stats, scores, self._masks(scores, drop), drop,
            lower, upper,
        )  # fmt: skip

    def _gradient(self, state: BiPState, batch: Any) -> tuple[jax.Array, Any, Any]:
        """Loss, new statistics and the gradient at the masked weights: one backward pass."""
        z = masks_lib.apply(state.masks, state.params)
        fun = functools.partial(call_loss, state.loss.value)
        vg = optim.parallel.value_and_grad(fun, has_aux=True, axis_name=self.axis_name)
        (value, stats), g = vg(z, state.stats, batch)
        return value, stats, g

    def _lower(self, state: BiPState, batch: Any) -> tuple[BiPState, jax.Array]:
        value, stats, g = self._gradient(state, batch)
        g = masks_lib.apply(state.masks, g)
        updates, lower = self.lower.update(g, state.lower, state.params)
        params = optax.apply_updates(state.params, updates)
        return state._replace(params=params, stats=stats, lower=lower), value

    def _hypergradient(self, state: BiPState, g: Any) -> Any:
        def one(s, theta, m, g):
            direct = jnp.sign(s) * theta * g
            if not self.second_order:
                return direct
            if self.implicit == "official":
                return direct - direct**2 / self.gamma
            return jnp.sign(s) * (theta - jnp.where(m, g, 0) / self.gamma) * g

        def pick(tree):
            return masks_lib.map_leaves(lambda s, x: None if s is None else x, state.scores, tree)

        return jax.tree.map(one, state.scores, pick(state.params), state.masks, pick(g))

    def _upper(self, state: BiPState, batch: Any) -> tuple[BiPState, jax.Array]:
        value, _, g = self._gradient(state, batch)
        h = self._hypergradient(state, g)
        updates, upper = self.upper.update(h, state.upper, state.scores)
        scores = optax.apply_updates(state.scores, updates)
        masks = self._masks(scores, state.drop)
        return state._replace(scores=scores, masks=masks, upper=upper), value

    def step(self, state: BiPState, batch: tuple[Any, Any]) -> tuple[BiPState, dict[str, Any]]:
        """One round: ``lower_steps`` updates of the weights, one of the scores, new masks.

        Args:
          state: State.
          batch: ``(batch_lower, batch_upper)``. With ``lower_steps`` above 1, the leaves of
            ``batch_lower`` have a leading axis of that length.

        Returns:
          The state and the metrics ``loss_lower``, ``loss_upper`` (each before its update),
          ``density`` and ``flips`` (entries whose mask changed).
        """
        check_batches(batch, self.lower_steps)
        lower_batch, upper_batch = batch
        before = state.masks
        if self.compatibility:
            from bilevel.pruning import _bip_official

            state, low, high = _bip_official.step(self, state, lower_batch, upper_batch)
        else:
            low = high = jnp.zeros(())
            if not self.second_order:
                state, high = self._upper(state, upper_batch)
            for i in range(self.lower_steps):
                one = lower_batch
                if self.lower_steps > 1:
                    one = jax.tree.map(lambda x, i=i: x[i], lower_batch)
                state, low = self._lower(state, one)
            if self.second_order:
                state, high = self._upper(state, upper_batch)
        flips = masks_lib.count(jax.tree.map(jnp.logical_xor, before, state.masks))
        metrics = {
            "loss_lower": low,
            "loss_upper": high,
            "density": masks_lib.density(state.masks),
            "flips": flips,
        }
        return state._replace(count=state.count + 1), metrics

    def export(self, state: BiPState) -> tuple[Any, Any]:
        """Returns ``(params, masks)``, the pruned parameters with exact zeros.

        With ``compatibility`` the masks are cut layer by layer, as the authors' exporter does.
        """
        masks = state.masks
        if self.compatibility and self.structure == "weight":
            sizes = sum(m.size for m in jax.tree.leaves(masks))
            density = self.density if self.scope == "layer" else 1 - float(state.drop) / sizes
            masks = masks_lib.from_scores(state.scores, density, scope="layer")
        return masks_lib.apply(masks, state.params), masks


def bip(
    lower: optax.GradientTransformation,
    upper: optax.GradientTransformation,
    density: float,
    *,
    gamma: float = 1e4,
    second_order: bool = True,
    implicit: str = "paper",
    compatibility: str | None = None,
    scope: str | None = None,
    structure: str = "weight",
    min_keep: int = 0,
    lower_steps: int = 1,
    rule: masks_lib.Rule | None = None,
    output_axis: int = -1,
    input_axis: int = -2,
    axis_name: str | None = None,
) -> BiP:
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
      scope, structure, min_keep, output_axis, input_axis: See :func:`bilevel.masks.from_scores`.
      lower_steps: Updates of the weights per update of the scores.
      rule: Which leaves are prunable; see :func:`bilevel.masks.prunable`.
      axis_name: Mapped axis to average over inside the user's own ``pmap`` or ``shard_map``.

    Returns:
      A solver: ``init(loss, params, stats=None)``, ``step(state, (batch_lower, batch_upper))``
      and ``export(state)``.

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
    _checks.number("gamma", gamma, 0, open_low=True)
    _checks.choice("implicit", implicit, ["paper", "official"])
    if compatibility is not None:
        _checks.choice("compatibility", compatibility, ["official", "official_unaliased"], "None")
    _checks.count("lower_steps", lower_steps)
    _checks.transform("lower", lower)
    _checks.transform("upper", upper)
    if compatibility and lower_steps > 1:
        raise ValueError(f"compatibility has lower_steps=1, got {lower_steps}")
    if compatibility:
        implicit = "official"
    masks_lib.check_structure(structure, scope, min_keep)
    return BiP(
        lower, upper, density, gamma, second_order, implicit, compatibility, scope, structure,
        min_keep, lower_steps, rule, output_axis, input_axis, axis_name,
    )  # fmt: skip
