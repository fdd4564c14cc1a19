"""Training under masks, and what happens between the rounds of iterative methods.

IMP, OMP, one-shot and gradual magnitude pruning, random, SNIP, GraSP and SynFlow all train by the
same step; they differ in where the masks come from and in what is rewound. Everything that changes
between rounds is data in the state, so that no round recompiles.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import optim
from bilevel.problem import Problem, Solver
from bilevel.pruning import _common
from bilevel.pruning import density as density_lib
from bilevel.pruning import masks as masks_lib
from bilevel.pruning._mask_updates import exchange as exchanged
from bilevel.pruning._mask_updates import magnitude_masks
from optim import _checks

__all__ = ["Exchange", "Gradual", "SparseState", "next_round", "set_anchor", "sparse_training"]


@jax.tree_util.register_static
class Static(NamedTuple):
    """A value that is part of a pytree's structure and no leaf of it."""

    value: Any


class SparseState(NamedTuple):
    """State of :func:`bilevel.sparse_training`.

    Attributes:
      problem: The problem, part of the structure.
      count: Steps made, int32 of shape ().
      y: Weights, zero where pruned; shapes as given.
      stats: Statistics of the model, or None.
      opt: State of the optimizer and the masks, an :class:`optim.MaskedUpdateState`.
      rate: Factor on the updates, float32 of shape ().
      anchor: What rounds rewind to: weights, statistics and state of the inner optimizer.
      start: ``init`` of the inner optimizer, part of the structure.
    """

    problem: Problem
    count: jax.Array
    y: Any
    stats: Any
    opt: Any
    rate: jax.Array
    anchor: Any
    start: Static

    x = masks = _common.MASKS_OF_OPT
    params = _common.PARAMS


class Gradual(NamedTuple):
    """Cubic gradual magnitude pruning: arguments of :func:`bilevel.density.cubic`.

    Attributes:
      final: Density at the end, in (0, 1].
      start: Step of the first change.
      updates: Number of changes, >= 1.
      every: Steps between changes, >= 1.
      initial: Density at the start of the ramp, in (0, 1]. Weights that are pruned already stay so.
      scope: ``"global"``, one cut through all layers, or ``"layer"``, the density in each.
    """

    final: float
    start: int
    updates: int
    every: int
    initial: float = 1.0
    scope: str = "global"


class Exchange(NamedTuple):
    r"""Dynamic sparse training: in each layer a few weights leave, and as many others enter.

    .. math::
      k_l = \lceil p_t \textstyle\sum m_l \rceil, \qquad
      p_t = p_T + \tfrac12 (p_0 - p_T) \left(1 + \cos \frac{\pi t}{T}\right)

    The smallest weights leave; those of the largest gradient enter, at zero.

    Attributes:
      every: Steps between exchanges, >= 1.
      steps: The last step :math:`T` of an exchange, at least ``every``.
      fraction: :math:`p_0` in [0, 1].
      last: :math:`p_T` in [0, 1].
    """

    every: int
    steps: int
    fraction: float = 0.5
    last: float = 0.005


def _with_rate(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """``tx`` with its updates multiplied by ``update(..., rate=)``."""
    tx = optax.with_extra_args_support(tx)

    def update(updates, state, params=None, **extra_args):
        rate = extra_args.pop("rate")
        updates, state = tx.update(updates, state, params, **extra_args)
        return jax.tree.map(lambda u: u * rate.astype(u.dtype), updates), state

    return optax.GradientTransformationExtraArgs(tx.init, update)


def _gradual(state: SparseState, ramp: Gradual) -> SparseState:
    since = state.count - ramp.start
    due = (since >= 0) & (since % ramp.every == 0) & (since <= ramp.updates * ramp.every)
    densities = density_lib.cubic_rounds(ramp.final, ramp.updates, ramp.initial)
    drops = [masks_lib.drop_counts(state.masks, d, scope=ramp.scope) for d in densities]
    drops = jax.tree.map(lambda *j: jnp.array(j, jnp.int32), *drops)

    def prune(masks, y):
        drop = jax.tree.map(lambda j: j[since // ramp.every], drops)
        masks = magnitude_masks(masks, y, drop, ramp.scope)
        return masks, masks_lib.apply(masks, y)

    masks, y = jax.lax.cond(due, prune, lambda m, p: (m, p), state.masks, state.y)
    return state._replace(y=y, opt=state.opt._replace(masks=masks))


def _exchange(state: SparseState, grads: Any, given: Exchange) -> SparseState:
    t = state.count
    due = (t % given.every == 0) & (t <= given.steps)
    wave = 1 + jnp.cos(jnp.pi * t / given.steps)
    fraction = given.last + 0.5 * (given.fraction - given.last) * wave

    def change(masks, y):
        masks = exchanged(masks, y, grads, fraction)
        return masks, masks_lib.apply(masks, y)

    masks, y = jax.lax.cond(due, change, lambda m, p: (m, p), state.masks, state.y)
    return state._replace(y=y, opt=state.opt._replace(masks=masks))


def set_anchor(state: SparseState) -> SparseState:
    """Remembers weights, statistics and optimizer as what :func:`next_round` rewinds to.

    Args:
      state: State of :func:`bilevel.sparse_training`.

    Returns:
      The state, with copies in ``anchor``.

    Example:
      >>> import jax.numpy as jnp, optax, bilevel
      >>> solver = bilevel.sparse_training(0.1)
      >>> loss = lambda params, batch: jnp.sum((params["w"] - 1) ** 2)
      >>> state = solver.init(bilevel.pruning.problem(loss), None, {"w": jnp.zeros((1, 2))})
      >>> state, _ = solver.step(state, None)
      >>> bilevel.set_anchor(state).anchor[0]["w"]
      Array([[0.2, 0.2]], dtype=float32)
    """
    anchor = (state.y, state.stats, state.opt.inner_state)
    return state._replace(anchor=jax.tree.map(jnp.copy, anchor))


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
      ValueError: On an unknown style, ``"reinit"`` without parameters, a number to drop that is
        negative, no integer (a density, say) or above all entries, or a state of another solver.

    Example:
      >>> import jax.numpy as jnp, optax, bilevel
      >>> solver = bilevel.sparse_training(0.1)
      >>> loss = lambda params, batch: jnp.sum((params["w"] - jnp.array([[3.0, 1.0]])) ** 2)
      >>> state = solver.init(bilevel.pruning.problem(loss), None, {"w": jnp.full((1, 2), 0.5)})
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
    if not isinstance(state, SparseState):
        raise ValueError(
            f"state must be one of bilevel.sparse_training, got a {type(state).__name__}"
        )
    for path, count in jax.tree_util.tree_leaves_with_path(drop):
        _checks.count("drop" + jax.tree_util.keystr(path), count, 0)
    known = not any(isinstance(count, jax.core.Tracer) for count in jax.tree.leaves(drop))
    size = sum(m.size for m in jax.tree.leaves(state.masks))
    if known and sum(map(int, jax.tree.leaves(drop))) > size:
        raise ValueError(f"drop must be at most {size}, the number of entries, got {drop}")
    return _next_round(state, drop, style=style, rate=rate, fresh=fresh)


@functools.partial(jax.jit, static_argnames="style")
def _next_round(state: SparseState, drop: Any, *, style: str, rate: Any, fresh: Any) -> SparseState:
    one_count = jax.tree_util.treedef_is_leaf(jax.tree.structure(drop))
    scope = "global" if one_count else "layer"
    masks = magnitude_masks(state.masks, state.y, drop, scope)
    y, stats, inner = state.anchor
    if style == "finetune":
        y, stats = state.y, state.stats
    if style == "reinit":
        y = fresh
    y = masks_lib.apply(masks, y)
    return state._replace(
        y=y,
        stats=stats,
        opt=state.opt._replace(masks=masks, inner_state=_rewound(inner, state.start.value(y), y)),
        rate=jnp.float32(rate),
    )


def _rewound(inner: Any, new: Any, params: Any) -> Any:
    """``inner`` with its arrays as they start from ``params``, and its counters as they are.

    Moments start from zero; optimizers that keep copies of the parameters (schedule-free, Prodigy,
    SAM) start from the new ones.
    """
    like = jax.tree.structure(params), [x.shape for x in jax.tree.leaves(params)]

    def is_params(node):
        return (jax.tree.structure(node), [jnp.shape(x) for x in jax.tree.leaves(node)]) == like

    def choose(old, start):
        return start if is_params(old) or jnp.ndim(old) else old

    return jax.tree.map(choose, inner, new, is_leaf=is_params)


def sparse_training(
    lower_step: Any,
    *,
    gradual: Gradual | None = None,
    exchange: Exchange | None = None,
    axis_name: str | None = None,
) -> Solver:
    r"""Trains the weights that masks keep; pruned ones and their moments stay exactly zero.

    .. math::
      \theta \leftarrow m \odot \left(\theta + r\,\mathrm{lower}(m \odot \nabla\ell(\theta))\right)

    with a factor :math:`r` that is 1 unless :func:`next_round` says otherwise.

    Args:
      lower_step: Step of the weights: an optax optimizer, weight decay included, or a number or
        schedule for SGD.
      gradual: Gradual magnitude pruning during training (GMP), before the step that is due.
      exchange: Weights that are exchanged by the gradient, after the step (RigL); with ``gradual``
        GraNet, whose cuts then come after the step too, before the exchange.
      axis_name: Mapped axis to average over inside the user's own ``pmap`` or ``shard_map``.

    Returns:
      A :class:`bilevel.Solver`. ``init(problem, x0, y0, *, stats=None)`` takes a problem of
      :func:`bilevel.pruning.problem`, boolean masks ``x0`` (None: every prunable weight is kept)
      and parameters ``y0``. ``step(state, batch)`` updates the kept weights, with metrics ``loss``
      and ``density``. ``export(state)`` returns ``(params, masks)``; it and
      :func:`bilevel.solve` warn of a ramp that has not ended, of a density that was missed and of
      layers without a weight.

    Raises:
      ValueError: On a ramp or an exchange outside its ranges; at ``init`` when no leaf is prunable
        or a mask does not fit its leaf.

    Example:
      >>> import jax.numpy as jnp, optax, bilevel
      >>> solver = bilevel.sparse_training(optax.sgd(0.1, momentum=0.9))
      >>> loss = lambda params, batch: jnp.mean((batch @ params["w"] - 1) ** 2)
      >>> state = solver.init(bilevel.pruning.problem(loss), None, {"w": jnp.array([[0.3], [0.2]])})
      >>> for _ in range(5):
      ...   state, metrics = solver.step(state, jnp.array([[1.0, 0.0]]))
      >>> state = bilevel.next_round(state, drop=1)
      >>> state.params["w"][:, 0]
      Array([0.3, 0. ], dtype=float32)

    References:
      Frankle and Carbin, The Lottery Ticket Hypothesis, ICLR 2019; Zhu and Gupta, To prune, or
      not to prune, 2017; Evci et al., Rigging the Lottery, ICML 2020; Liu et al., Sparse Training
      via Boosting Pruning Plasticity with Neuroregeneration, NeurIPS 2021.
    """
    tx = _common.step("lower_step", lower_step)
    if gradual is not None:
        if not isinstance(gradual, Gradual):
            raise ValueError(f"gradual must be a bilevel.Gradual, got {gradual!r}")
        masks_lib.Cut(scope=gradual.scope)  # Checks the ranges.
        density_lib.cubic(0, **{k: v for k, v in gradual._asdict().items() if k != "scope"})

    if exchange is not None:
        if not isinstance(exchange, Exchange):
            raise ValueError(f"exchange must be a bilevel.Exchange, got {exchange!r}")
        _checks.count("exchange.every", exchange.every)
        _checks.count("exchange.steps", exchange.steps, exchange.every)
        _checks.number("exchange.fraction", exchange.fraction, 0, 1)
        _checks.number("exchange.last", exchange.last, 0, 1)

    def init(problem: Problem, x0: Any, y0: Any, *, stats: Any = None) -> SparseState:
        _common.check_problem(problem)
        masks = masks_lib.ones(y0) if x0 is None else x0
        _common.check_fit("masks (x0)", masks, y0)
        masks, y, stats = _common.copy((masks, masks_lib.apply(masks, y0), stats))
        state = SparseState(
            problem=problem,
            count=jnp.int32(0),
            y=y,
            stats=stats,
            opt=optim.masked_update(tx, lambda _: masks).init(y),
            rate=jnp.float32(1.0),
            anchor=None,
            start=Static(tx.init),
        )
        return set_anchor(state)

    def step(state: SparseState, batch: Any) -> tuple[SparseState, dict[str, Any]]:
        if gradual is not None and exchange is None:
            state = _gradual(state, gradual)
        only = None if exchange is not None else state.masks
        value, stats, g = _common.gradient(state, state.y, batch, axis_name, only)
        masked = optim.masked_update(_with_rate(tx))
        updates, opt = masked.update(g, state.opt, state.y, rate=state.rate)
        y = optax.apply_updates(state.y, updates)
        state = state._replace(count=state.count + 1, y=y, stats=stats, opt=opt)
        if exchange is not None:
            state = state if gradual is None else _gradual(state, gradual)
            state = _exchange(state, g, exchange)
        return state, {"loss": value, "density": masks_lib.density(state.masks)}

    def doubts(state: SparseState) -> tuple[str, ...]:
        made = _common.made(state)
        if made is None:
            return ()
        never = () if exchange is None else _common.no_exchange(made, exchange.every)
        if gradual is None:
            return (*never, *masks_lib.doubts(state.masks))
        last = gradual.start + gradual.updates * gradual.every
        if made < last + (exchange is None):
            return (
                f"the ramp to density {gradual.final:g} has not ended: its last change is at step "
                f"{last}, and {made} steps were made",
                *masks_lib.doubts(state.masks),
            )
        layers = len(jax.tree.leaves(state.masks))
        return masks_lib.doubts(state.masks, gradual.final, slack=layers)

    return _common.mask_solver("sparse_training", init, step, doubts, axis_name)
