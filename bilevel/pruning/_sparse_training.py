"""Training under masks, and what happens between the rounds of iterative methods.

IMP, OMP, one-shot and gradual magnitude pruning, random, SNIP, GraSP and SynFlow all train by the
same step; they differ in where the masks come from and in what is rewound. Everything that changes
between rounds is data in the state, so that no round recompiles.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import optim
from bilevel.pruning import _common
from bilevel.pruning import density as density_lib
from bilevel.pruning import masks as masks_lib
from optim import _checks

__all__ = ["Gradual", "SparseState", "next_round", "set_anchor", "sparse_training"]


class SparseState(NamedTuple):
    """State of :func:`bilevel.sparse_training`.

    Attributes:
      loss: The loss, part of the structure.
      count: Steps made, int32 of shape ().
      params: Weights, zero where pruned; shapes as given.
      stats: Statistics of the model, or None.
      opt: State of the optimizer and the masks, an :class:`optim.MaskedUpdateState`.
      rate: Factor on the updates, float32 of shape ().
      anchor: What rounds rewind to: weights, statistics and state of the inner optimizer.
    """

    loss: _common.Static
    count: jax.Array
    params: Any
    stats: Any
    opt: Any
    rate: jax.Array
    anchor: Any

    @property
    def masks(self) -> Any:
        """The masks in force."""
        return self.opt.masks


class Gradual(NamedTuple):
    """Cubic gradual magnitude pruning: arguments of :func:`bilevel.density.cubic`.

    Attributes:
      final: Density at the end, in (0, 1].
      start: Step of the first change.
      updates: Number of changes, >= 1.
      every: Steps between changes, >= 1.
    """

    final: float
    start: int
    updates: int
    every: int


def _with_rate(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """``tx`` with its updates multiplied by ``update(..., rate=)``."""
    tx = optax.with_extra_args_support(tx)

    def update(updates, state, params=None, **extra_args):
        rate = extra_args.pop("rate")
        updates, state = tx.update(updates, state, params, **extra_args)
        return jax.tree.map(lambda u: u * rate.astype(u.dtype), updates), state

    return optax.GradientTransformationExtraArgs(tx.init, update)


def _magnitude_masks(masks: Any, params: Any, drop: Any) -> Any:
    """The largest weights among those still kept: pruned ones are zero and go first."""
    chosen = masks_lib.map_leaves(lambda m, p: None if m is None else p, masks, params)
    one_count = jax.tree_util.treedef_is_leaf(jax.tree.structure(drop))
    return masks_lib.from_counts(chosen, drop, scope="global" if one_count else "layer")


def _gradual(state: SparseState, ramp: Gradual) -> SparseState:
    since = state.count - ramp.start
    due = (since >= 0) & (since % ramp.every == 0) & (since <= ramp.updates * ramp.every)
    densities = density_lib.cubic_rounds(ramp.final, ramp.updates)
    drops = jnp.array([masks_lib.drop_counts(state.masks, d) for d in densities], jnp.int32)

    def prune(masks, params):
        masks = _magnitude_masks(masks, params, drops[since // ramp.every])
        return masks, masks_lib.apply(masks, params)

    masks, params = jax.lax.cond(due, prune, lambda m, p: (m, p), state.masks, state.params)
    return state._replace(params=params, opt=state.opt._replace(masks=masks))


def set_anchor(state: SparseState) -> SparseState:
    """Remembers weights, statistics and optimizer as what :func:`next_round` rewinds to.

    Args:
      state: State of :func:`bilevel.sparse_training`.

    Returns:
      The state, with copies in ``anchor``.

    Example:
      >>> import jax.numpy as jnp, optax, bilevel
      >>> solver = bilevel.sparse_training(optax.sgd(0.1))
      >>> loss = lambda params, batch: jnp.sum((params["w"] - 1) ** 2)
      >>> state = solver.init(loss, {"w": jnp.zeros((1, 2))})
      >>> state, _ = solver.step(state, None)
      >>> bilevel.set_anchor(state).anchor[0]["w"]
      Array([[0.2, 0.2]], dtype=float32)
    """
    anchor = (state.params, state.stats, state.opt.inner_state)
    return state._replace(anchor=jax.tree.map(jnp.copy, anchor))


@functools.partial(jax.jit, static_argnames="style")
def next_round(
    state: SparseState, drop: Any, *, style: str = "rewind", rate: Any = 1.0, fresh: Any = None
) -> SparseState:
    """Prunes by magnitude what is left and goes back for the next round of training.

    Args:
      state: State at the end of a round.
      drop: How many entries are dropped in all (or a tree of how many of each leaf), from
        :func:`bilevel.masks.drop_counts`; data, so that every round runs the same program.
      style: ``"rewind"``: weights, statistics and schedule go back to the anchor; ``"finetune"``:
        the weights stay, the schedule goes back; ``"reinit"``: the weights are ``fresh``, the
        control experiment of the lottery-ticket paper. Momentum starts from zero in all.
      rate: Factor on the updates from here on; 2 doubles the learning rate.
      fresh: New initial parameters, for ``"reinit"``.

    Returns:
      The first state of the next round.

    Raises:
      ValueError: On an unknown style, or ``"reinit"`` without parameters.

    Example:
      >>> import jax.numpy as jnp, optax, bilevel
      >>> solver = bilevel.sparse_training(optax.sgd(0.1))
      >>> loss = lambda params, batch: jnp.sum((params["w"] - jnp.array([[3.0, 1.0]])) ** 2)
      >>> state = solver.init(loss, {"w": jnp.full((1, 2), 0.5)})
      >>> state, _ = solver.step(state, None)
      >>> state.params["w"], bilevel.next_round(state, drop=1).params["w"]
      (Array([[1. , 0.6]], dtype=float32), Array([[0.5, 0. ]], dtype=float32))

    References:
      Frankle and Carbin, The Lottery Ticket Hypothesis, ICLR 2019; Renda, Frankle, Carbin,
      Comparing Rewinding and Fine-tuning in Neural Network Pruning, ICLR 2020.
    """
    _checks.choice("style", style, ["rewind", "finetune", "reinit"])
    if (fresh is None) == (style == "reinit"):
        raise ValueError("fresh parameters are needed by style='reinit', and by it alone")
    masks = _magnitude_masks(state.masks, state.params, drop)
    params, stats, inner = state.anchor
    if style == "finetune":
        params, stats = state.params, state.stats
    if style == "reinit":
        params = fresh
    like = jax.tree.structure(params), [x.shape for x in jax.tree.leaves(params)]

    def is_params(node):
        return (jax.tree.structure(node), [jnp.shape(x) for x in jax.tree.leaves(node)]) == like

    def clear(node):
        return jax.tree.map(jnp.zeros_like, node) if is_params(node) else node

    inner = jax.tree.map(clear, inner, is_leaf=is_params)
    return state._replace(
        params=masks_lib.apply(masks, params),
        stats=stats,
        opt=state.opt._replace(masks=masks, inner_state=inner),
        rate=jnp.float32(rate),
    )


def sparse_training(
    tx: optax.GradientTransformation,
    *,
    gradual: Gradual | None = None,
    axis_name: str | None = None,
) -> _common.PruningSolver:
    r"""Trains the weights that masks keep; pruned ones and their moments stay exactly zero.

    .. math::
      \theta \leftarrow m \odot \left(\theta + r\,\mathrm{tx}(m \odot \nabla\ell(\theta))\right)

    with a factor :math:`r` that is 1 unless :func:`next_round` says otherwise.

    Args:
      tx: Optimizer, weight decay included.
      gradual: Gradual magnitude pruning during training (GMP).
      axis_name: Mapped axis to average over inside the user's own ``pmap`` or ``shard_map``.

    Returns:
      A solver of three functions. ``init(loss, params, stats=None, *, masks=None)`` starts from
      ``params`` under boolean ``masks`` (``None`` where a leaf is not pruned; default: every
      prunable weight is kept), with ``loss(params, batch) -> scalar``, or, where ``stats`` are
      given, ``loss(params, stats, batch) -> (scalar, new_stats)``. ``step(state, batch)`` updates
      the kept weights, with metrics ``loss`` and ``density``. ``export(state)`` returns
      ``(params, masks)``.

    Raises:
      ValueError: On a ramp outside its ranges; at ``init`` when no leaf is prunable or a mask does
        not fit its leaf.

    Example:
      >>> import jax.numpy as jnp, optax, bilevel
      >>> solver = bilevel.sparse_training(optax.sgd(0.1, momentum=0.9))
      >>> loss = lambda params, batch: jnp.mean((batch @ params["w"] - 1) ** 2)
      >>> state = solver.init(loss, {"w": jnp.array([[0.3], [0.2]])})
      >>> for _ in range(5):
      ...   state, metrics = solver.step(state, jnp.array([[1.0, 0.0]]))
      >>> state = bilevel.next_round(state, drop=1)
      >>> state.params["w"][:, 0]
      Array([0.3, 0. ], dtype=float32)

    References:
      Frankle and Carbin, The Lottery Ticket Hypothesis, ICLR 2019; Zhu and Gupta, To prune, or
      not to prune, 2017.
    """
    if gradual is not None:
        density_lib.cubic(0, **gradual._asdict())  # Checks the ranges.

    def init(
        loss: Callable[..., Any], params: Any, stats: Any = None, *, masks: Any = None
    ) -> SparseState:
        masks = masks_lib.ones(params) if masks is None else masks
        params, stats = jax.tree.map(jnp.array, (masks_lib.apply(masks, params), stats))
        state = SparseState(
            loss=_common.Static(loss),
            count=jnp.int32(0),
            params=params,
            stats=stats,
            opt=optim.masked_update(tx, masks).init(params),
            rate=jnp.float32(1.0),
            anchor=None,
        )
        return set_anchor(state)

    def step(state: SparseState, batch: Any) -> tuple[SparseState, dict[str, Any]]:
        if gradual is not None:
            state = _gradual(state, gradual)
        value, stats, g = _common.gradient(state.loss, state.params, state.stats, batch, axis_name)
        masked = optim.masked_update(_with_rate(tx))
        updates, opt = masked.update(g, state.opt, state.params, rate=state.rate)
        params = optax.apply_updates(state.params, updates)
        state = state._replace(count=state.count + 1, params=params, stats=stats, opt=opt)
        return state, {"loss": value, "density": masks_lib.density(state.masks)}

    def export(state: SparseState) -> tuple[Any, Any]:
        return masks_lib.apply(state.masks, state.params), state.masks

    return _common.PruningSolver(init, step, export, axis_name)
