"""Dynamic sparse training: RigL, SET, GraNet, ITOP, sparse momentum and GMP as one solver."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import optim
from bilevel.problem import Problem, Solver
from bilevel.pruning import _common
from bilevel.pruning import density as density_lib
from bilevel.pruning import masks as masks_lib
from bilevel.pruning._mask_updates import DROPS, exchange, magnitude_masks, uniforms
from bilevel.pruning._rigl_program import RigLProgramState, rigl_program
from bilevel.pruning._start_masks import start_masks
from optim import _checks
from optim._masked_update import clean

__all__ = [
    "DynamicState",
    "RigLProgramState",
    "dynamic_sparse",
    "gmp",
    "granet",
    "rigl",
    "rigl_program",
    "set_",
    "start_masks",
]

_GROWS = ("gradient", "momentum", "random", "unfired")
_MOMENTUM = 0.9  # Of the running gradient by which sparse momentum grows.


class DynamicState(NamedTuple):
    """State of :func:`bilevel.dynamic_sparse`.

    Attributes:
      problem: The problem, part of the structure.
      count: Steps made, int32 of shape ().
      y: Weights, zero where pruned; shapes as given.
      stats: Statistics of the model, or None.
      opt: State of the optimizer and the masks, an :class:`optim.MaskedUpdateState`.
      running: Running sum of dense gradients, shaped like the prunable leaves, or None.
      fired: Masks of what was ever active, or None.
      key: Data of the key of random growth, uint32.
    """

    problem: Problem
    count: jax.Array
    y: Any
    stats: Any
    opt: Any
    running: Any
    fired: Any
    key: jax.Array

    x = masks = _common.MASKS_OF_OPT
    params = _common.PARAMS


def _momentum(inner: Any) -> Any:
    for name in ("trace", "mu"):
        found = optax.tree.get_all_with_path(inner, name)
        if found:
            return found[0][1]
    raise ValueError(
        "masked_momentum=True needs an optimizer with momentum: a state with trace or mu"
    )


def dynamic_sparse(
    lower_step: Any,
    density: float,
    *,
    every: int,
    steps: int,
    grow: str = "gradient",
    drop: str = "magnitude",
    fraction: float = 0.5,
    schedule: str | Callable[[Any], Any] = "cosine",
    last: float = 0.005,
    start: int = 0,
    stop: int | None = None,
    initial: float | None = None,
    cut_until: int | None = None,
    distribution: str = "erk",
    mask_moments: bool = True,
    masked_momentum: bool = False,
    exact: bool = True,
    draws: Callable[[Any], Any] | None = None,
    seed: int = 0,
    axis_name: str | None = None,
) -> Solver:
    r"""Trains a sparse network whose masks change: in each layer weights leave, others enter.

    .. math::
      \theta &\leftarrow m \odot (\theta + \mathrm{lower}(m \odot \nabla \ell(\theta)))
        && \text{every step } t \\
      m &\leftarrow \text{the } \lfloor d_t n \rfloor \text{ largest } |\theta|
        && \text{every } \Delta \text{ steps, where the density falls} \\
      m_l &\leftarrow \text{without the } \lceil p_t \textstyle\sum m_l \rceil
        \text{ smallest } |\theta_l| \text{, with as many others}
        && \text{every } \Delta \text{ steps, in each layer } l \\
      p_t &= p_T + \tfrac12 (p_0 - p_T) \left(1 + \cos \tfrac{\pi t}{T}\right), \qquad
      d_t = d + (d_0 - d) \left(1 - \tfrac{c_t}{C}\right)^3 &&

    in this order, with :math:`c_t` of :math:`C` cuts made. Grown weights start at zero with zero
    moments; a weight that leaves and enters in one exchange keeps both, unless a cut took it.
    Masks are data: nothing is compiled again when they change. :func:`bilevel.dynamic.rigl`,
    ``set_``, ``granet`` and ``gmp`` are this function in their authors' settings.

    Args:
      lower_step: Step of the weights: an optax optimizer, weight decay included, or a number or
        schedule for SGD.
      density: Share :math:`d` of the prunable weights that is kept at the end, in (0, 1].
      every: Steps :math:`\Delta` between changes, >= 1.
      steps: Length :math:`T` of the schedule of the fraction: the steps of the run.
      grow: What enters: ``"gradient"``, the largest gradients of this step's batch (RigL, GraNet);
        ``"momentum"``, the largest running sums of dense gradients; ``"random"`` (SET);
        ``"unfired"``, at random among those that were never active, while there are some (ITOP).
      drop: What leaves: ``"magnitude"`` or ``"signed"``; see :func:`bilevel.pruning.exchange`.
      fraction: Share :math:`p_0` of a layer that is exchanged, in [0, 1]; 0 only cuts (GMP).
      schedule: ``"cosine"`` as above, ``"constant"``, or a function from the step to the share.
      last: :math:`p_T`, in [0, 1].
      start: First step of a change, >= 0.
      stop: Last step of an exchange; default: three quarters of ``steps``, so that what is grown
        is trained.
      initial: Density :math:`d_0` at the start, in (0, 1]; default: ``density``, which is not cut.
      cut_until: Last step of a cut, needed with ``initial``: then the density is exact.
      distribution: Of the density at the start: ``"erk"`` or ``"uniform"``.
      mask_moments: Whether the optimizer sees masked gradients and its moments stay zero where
        weights are. False, as in ITOP's code with Adam: it sees dense ones, and what is grown
        starts with moments that are warm.
      masked_momentum: Whether momentum growth reads the optimizer's own momentum, as in the
        authors' code. With masked moments exactly the weights that have left return.
      exact: Whether counts are exact. False, as in GraNet's and ITOP's code: a cut keeps one
        weight fewer, the last cut is not made, random growth draws its number too, and the signed
        drop takes almost all negative weights.
      draws: Numbers of random growth from elsewhere: a function from the number of changes made
        before to a tree of numbers in [0, 1), shaped like the masks, the largest of which enter.
      seed: Of start and growth, where ``init`` is given no ``key``.
      axis_name: Mapped axis to average over inside the user's own ``pmap`` or ``shard_map``.

    Returns:
      A :class:`bilevel.Solver`. ``init(problem, x0, y0, *, stats=None, key=None)`` takes a
      problem of :func:`bilevel.pruning.problem`, boolean masks ``x0`` (None: random ones of the
      initial density) and parameters ``y0``. ``step(state, batch)`` trains and changes the masks
      where that is due, with metrics ``loss``, ``density`` and ``exchanged``, the number of masks
      that changed. ``export(state)`` returns ``(params, masks)``.

    Raises:
      ValueError: On an argument outside its range; at ``init`` when no leaf is prunable, a mask
        does not fit its leaf, or the optimizer has no momentum to grow by.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> solver = bilevel.dynamic_sparse(0.1, 0.5, every=2, steps=8, last=0.0)
      >>> loss = lambda params, batch: jnp.sum((params["w"] - batch) ** 2)
      >>> problem, batch = bilevel.pruning.problem(loss), jnp.array([[0.0, 3.0], [0.0, 3.0]])
      >>> state = solver.init(problem, None, {"w": jnp.zeros((2, 2))})
      >>> for _ in range(8):
      ...   state, metrics = solver.step(state, batch)
      >>> state.masks["w"], float(metrics["density"])
      (Array([[False,  True], [False,  True]], dtype=bool), 0.5)

    References:
      Mocanu et al., Scalable Training of Artificial Neural Networks with Adaptive Sparse
      Connectivity, Nature Communications 2018; Dettmers and Zettlemoyer, Sparse Networks from
      Scratch, 2019; Evci et al., Rigging the Lottery, ICML 2020; Liu et al., Do We Actually Need
      Dense Over-Parameterization?, ICML 2021; Liu et al., Sparse Training via Boosting Pruning
      Plasticity with Neuroregeneration, NeurIPS 2021.
    """
    tx = _common.step("lower_step", lower_step)
    _checks.number("density", density, 0, 1, open_low=True)
    _checks.count("every", every)
    _checks.count("steps", steps, every)
    _checks.choice("grow", grow, _GROWS)
    _checks.choice("drop", drop, DROPS)
    _checks.number("fraction", fraction, 0, 1)
    _checks.number("last", last, 0, 1)
    _checks.count("start", start, 0)
    stop = steps * 3 // 4 if stop is None else stop
    _checks.count("stop", stop, 0)
    if not callable(schedule):
        _checks.choice("schedule", schedule, ["cosine", "constant"], "a function")
    _checks.choice("distribution", distribution, ["erk", "uniform"])
    for name, value in (
        ("mask_moments", mask_moments), ("masked_momentum", masked_momentum), ("exact", exact),
    ):  # fmt: skip
        _checks.flag(name, value)
    if masked_momentum and grow != "momentum":
        raise ValueError(f"masked_momentum=True belongs to grow='momentum', got grow={grow!r}")
    if draws is not None and grow not in ("random", "unfired"):
        raise ValueError(f"draws belong to grow='random' or 'unfired', got grow={grow!r}")
    cuts = _cuts(density, initial, start, cut_until, every, exact)
    initial = density if initial is None else initial
    first_change = max(-(-start // every), 1) * every
    masked = optim.masked_update(tx)

    def share(t: jax.Array) -> Any:
        if callable(schedule):
            return schedule(t)
        if schedule == "constant":
            return jnp.asarray(fraction)
        return density_lib.cosine_fraction(t, steps, fraction, last)

    def init(
        problem: Problem, x0: Any, y0: Any, *, stats: Any = None, key: jax.Array | None = None
    ) -> DynamicState:
        _common.check_problem(problem)
        to_start, key = jax.random.split(jax.random.key(seed) if key is None else key)
        if x0 is not None:
            _common.check_fit("masks (x0)", x0, y0)
            masks = x0
        elif initial == 1:
            masks = masks_lib.ones(y0)
        else:
            masks = start_masks(to_start, y0, initial, distribution)
            masks_lib.warn(masks)
        masks, y, stats = _common.copy((masks, masks_lib.apply(masks, y0), stats))
        opt: Any = optim.masked_update(tx, lambda _: masks).init(y)
        running = None
        if grow == "momentum":
            if masked_momentum:
                _momentum(opt.inner_state)
            else:
                running = _on_masks(lambda m, w: jnp.zeros_like(w), masks, y)
        fired = _common.copy(opt.masks) if grow == "unfired" else None
        data = jax.random.key_data(key)  # Numbers, which any checkpoint holds.
        return DynamicState(problem, jnp.int32(0), y, stats, opt, running, fired, data)

    def change(state: DynamicState, g: Any) -> DynamicState:
        t, masks, y, inner = state.count, state.masks, state.y, state.opt.inner_state
        if cuts is not None:
            n = sum(m.size for m in jax.tree.leaves(masks))
            keep = jnp.array(cuts(n), jnp.int32)
            c = jnp.clip(t // every - start // every, 0, keep.size - 1)
            masks = magnitude_masks(masks, y, n - keep[c], "global")
            y = masks_lib.apply(masks, y)
            inner = clean(masks, y, inner) if mask_moments else inner
        key, draw = jax.random.split(jax.random.wrap_key_data(state.key))
        growth = "score" if grow in ("gradient", "momentum") else grow
        scores = uniform = None
        if growth == "score":
            scores = g if grow == "gradient" else state.running
            if masked_momentum:
                scores = _momentum(inner)
        elif draws is None:
            uniform = uniforms(draw, masks)
        else:
            uniform = draws(t // every - max(-(-start // every), 1))
        new = exchange(
            masks,
            y,
            scores,
            jnp.where(t <= stop, share(t), 0),
            growth=growth,
            drop=drop,
            uniform=uniform,
            fired=state.fired,
            exact=exact,
        )
        fired = None if state.fired is None else jax.tree.map(jnp.logical_or, state.fired, new)
        y = masks_lib.apply(new, y)
        inner = clean(new, y, inner) if mask_moments else inner
        opt = state.opt._replace(masks=new, inner_state=inner)
        return state._replace(y=y, opt=opt, fired=fired, key=jax.random.key_data(key))

    def step(state: DynamicState, batch: Any) -> tuple[DynamicState, dict[str, Any]]:
        only = state.masks if grow in ("random", "unfired") and mask_moments else None
        value, stats, g = _common.gradient(state, state.y, batch, axis_name, only)
        if mask_moments:
            updates, opt = masked.update(g, state.opt, state.y)
            y = optax.apply_updates(state.y, updates)
        else:
            updates, inner = tx.update(g, state.opt.inner_state, state.y)
            opt = state.opt._replace(inner_state=inner)
            y = masks_lib.apply(opt.masks, optax.apply_updates(state.y, updates))
        running = state.running
        if running is not None:
            running = _on_masks(lambda m, v, x: _MOMENTUM * v + x, state.masks, running, g)
        t = state.count + 1
        state = state._replace(count=t, y=y, stats=stats, opt=opt, running=running)
        due = (t % every == 0) & (t >= start)
        before = state.masks
        state = jax.lax.cond(due, change, lambda s, _: s, state, g)
        return state, {
            "loss": value,
            "density": masks_lib.density(state.masks),
            "exchanged": _common.flips(before, state.masks),
        }

    def doubts(state: DynamicState) -> tuple[str, ...]:
        made = _common.made(state)
        if made is None:
            return ()
        end = 0 if cut_until is None else cut_until // every * every
        if made < end:
            return (
                f"the ramp to density {density:g} has not ended: its last cut is at step {end}, "
                f"and {made} steps were made",
                *masks_lib.doubts(state.masks),
            )
        exchanges = fraction > 0 or callable(schedule)
        never = _common.no_exchange(made, first_change) if exchanges else ()
        return (*never, *masks_lib.doubts(state.masks, density if exact else None))

    return _common.mask_solver("dynamic_sparse", init, step, doubts, axis_name)


def _on_masks(fun: Callable[..., Any], masks: Any, *trees: Any) -> Any:
    """Maps over the leaves that have a mask; None elsewhere."""
    return masks_lib.map_leaves(lambda m, *x: None if m is None else fun(m, *x), masks, *trees)


def _cuts(
    density: float, initial: float | None, start: int, until: int | None, every: int, exact: bool
) -> Callable[[int], list[int]] | None:
    """Returns how many of n weights each cut keeps, or None where nothing is cut."""
    if (until is None) != (initial is None):
        raise ValueError(
            f"initial and cut_until come together, got initial={initial} and cut_until={until}"
        )
    if initial is None or until is None:
        return None
    _checks.number("initial", initial, 0, 1, open_low=True)
    if initial < density:
        raise ValueError(f"initial must be in [density={density:g}, 1], got {initial:g}")
    updates = until // every - start // every
    if updates < 1:
        raise ValueError(f"cut_until must be at least start + every = {start + every}, got {until}")

    top = float(initial)

    def exactly(n: int) -> list[int]:
        return [n - int((1 - d) * n) for d in density_lib.cubic_rounds(density, updates, top)]

    def authors(n: int) -> list[int]:
        # Their counts in Python floats; more than their threshold is kept, and c stops before C.
        ramp = [1 - (1 - c / updates) ** 3 for c in range(updates)]
        rates = [(1 - top) + (top - density) * r for r in ramp]
        return [max(int(n * (1 - rate)) - 1, 0) for rate in rates]

    return exactly if exact else authors


def rigl(
    lower_step: Any,
    density: float,
    *,
    every: int = 100,
    steps: int,
    fraction: float = 0.3,
    stop: int | None = None,
    **options: Any,
) -> Solver:
    r"""RigL: :func:`bilevel.dynamic_sparse` that grows by gradient; the share decays to zero.

    .. math::
      p_t = \tfrac{p_0}{2} \left(1 + \cos \tfrac{\pi t}{T_{end}}\right)

    The authors' program skips the optimizer at the steps at which masks change, and masked weights
    keep their values; here every step trains. :func:`bilevel.dynamic.rigl_program` is the program.

    Args:
      lower_step: See :func:`bilevel.dynamic_sparse`.
      density: See there.
      every: See there.
      steps: Steps of the run.
      fraction: :math:`p_0`.
      stop: :math:`T_{end}`, the last step of an exchange; default: three quarters of ``steps``.
      **options: Of :func:`bilevel.dynamic_sparse`.

    Example:
      >>> import bilevel, optax
      >>> bilevel.dynamic.rigl(optax.sgd(0.1, momentum=0.9), 0.1, steps=1000).name
      'dynamic_sparse'

    References:
      Evci et al., Rigging the Lottery: Making All Tickets Winners, ICML 2020.
    """
    stop = steps * 3 // 4 if stop is None else stop

    def schedule(t: Any) -> Any:
        return density_lib.cosine_fraction(t, max(stop, 1), fraction, 0.0)

    options = {"schedule": schedule, **options}
    return dynamic_sparse(
        lower_step, density, every=every, steps=steps, fraction=fraction, stop=stop, **options
    )


def set_(
    lower_step: Any,
    density: float,
    *,
    every: int = 100,
    steps: int,
    fraction: float = 0.3,
    **options: Any,
) -> Solver:
    """SET: a constant share leaves by magnitude, as many enter at random.

    ``drop="signed"`` is the rule of the paper; most programs, the RigL authors' among them, drop
    by magnitude.

    Args:
      lower_step: See :func:`bilevel.dynamic_sparse`.
      density: See there.
      every: See there.
      steps: Steps of the run.
      fraction: Share that is exchanged.
      **options: Of :func:`bilevel.dynamic_sparse`.

    Example:
      >>> import bilevel
      >>> solver = bilevel.dynamic.set_(0.1, 0.1, steps=1000)

    References:
      Mocanu et al., Scalable Training of Artificial Neural Networks with Adaptive Sparse
      Connectivity, Nature Communications 2018.
    """
    options = {"grow": "random", "schedule": "constant", **options}
    return dynamic_sparse(
        lower_step, density, every=every, steps=steps, fraction=fraction, **options
    )


def granet(
    lower_step: Any,
    density: float,
    *,
    every: int = 1000,
    steps: int,
    initial: float = 0.5,
    cut_until: int | None = None,
    **options: Any,
) -> Solver:
    """GraNet: gradual magnitude cuts, each followed by an exchange by gradient.

    Args:
      lower_step: See :func:`bilevel.dynamic_sparse`.
      density: See there.
      every: See there.
      steps: Steps of the run.
      initial: Density at the start; 1 starts dense.
      cut_until: Last step of a cut; default: 11 sixteenths of ``steps``, as 110 of 160 epochs.
      **options: Of :func:`bilevel.dynamic_sparse`.

    Example:
      >>> import bilevel
      >>> solver = bilevel.dynamic.granet(0.1, 0.05, steps=4000)

    References:
      Liu et al., Sparse Training via Boosting Pruning Plasticity with Neuroregeneration, NeurIPS
      2021.
    """
    until = (
        max(steps * 11 // 16, options.get("start", 0) + every) if cut_until is None else cut_until
    )
    return dynamic_sparse(
        lower_step, density, every=every, steps=steps, initial=initial, cut_until=until, **options
    )


def gmp(
    lower_step: Any,
    density: float,
    *,
    every: int = 100,
    steps: int,
    cut_until: int | None = None,
    **options: Any,
) -> Solver:
    """GMP: gradual magnitude pruning from dense; nothing enters.

    :func:`bilevel.sparse_training` with ``gradual=`` is the same, cut before the step that is due.

    Args:
      lower_step: See :func:`bilevel.dynamic_sparse`.
      density: See there.
      every: See there.
      steps: Steps of the run.
      cut_until: Last step of a cut; default: three quarters of ``steps``.
      **options: Of :func:`bilevel.dynamic_sparse`.

    Example:
      >>> import bilevel
      >>> solver = bilevel.dynamic.gmp(0.1, 0.05, steps=4000)

    References:
      Zhu and Gupta, To prune, or not to prune, 2017.
    """
    options = {"initial": 1.0, "schedule": "constant", "fraction": 0.0, **options}
    until = max(steps * 3 // 4, options.get("start", 0) + every) if cut_until is None else cut_until
    return dynamic_sparse(lower_step, density, every=every, steps=steps, cut_until=until, **options)
