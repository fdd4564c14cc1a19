"""RigL and SET as the TensorFlow program of RigL's authors runs them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel.problem import Problem, Solver
from bilevel.pruning import _common
from bilevel.pruning import masks as masks_lib
from bilevel.pruning._mask_updates import largest, uniforms
from bilevel.pruning._start_masks import start_masks
from optim import _checks
from optim._masked_update import clean

__all__ = ["RigLProgramState", "rigl_program"]


class RigLProgramState(NamedTuple):
    """State of :func:`bilevel.dynamic.rigl_program`.

    Attributes:
      problem: The problem, part of the structure.
      count: Calls made, int32 of shape ().
      y: Stored weights, those that are masked too; shapes as given.
      stats: Statistics of the model, or None.
      masks: Masks in force, ``None`` where a leaf is not pruned.
      opt: State of the optimizer.
      steps: Optimizer steps made, int32 of shape ().
      last: Optimizer steps at the last change, int32 of shape ().
      changes: Changes made, int32 of shape ().
      key: Data of the key of noise and growth, uint32.
    """

    problem: Problem
    count: jax.Array
    y: Any
    stats: Any
    masks: Any
    opt: Any
    steps: jax.Array
    last: jax.Array
    changes: jax.Array
    key: jax.Array

    x = property(lambda state: state.masks, doc="The masks in force.")
    params = _common.PARAMS


def rigl_program(
    lower_step: Any,
    density: float,
    *,
    method: str = "rigl",
    every: int = 100,
    begin: int = 0,
    end: int | None = None,
    fraction: float = 0.3,
    decay: str | float = "cosine",
    noise: float = 1e-5,
    grown_weight: float = 0.0,
    grown_momentum: float = 0.0,
    draws: Callable[[Any], tuple[Any, Any]] | None = None,
    distribution: str = "erk",
    seed: int = 0,
    axis_name: str | None = None,
) -> Solver:
    r"""The released program of RigL, for its published numbers; not quite its paper.

    .. math::
      z = m \odot \theta, \qquad
      \theta &\leftarrow \theta + \mathrm{lower}(m \odot \nabla \ell(z)) \\
      k_l &= \lfloor p_s \textstyle\sum m_l \rfloor, \qquad
      p_s = \tfrac{p_0}{2} \Big(1 + \cos \frac{\pi \min(s, D)}{D}\Big) \text{ or }
      p_0 \Big(1 - \frac{s - s_0}{D}\Big)^a, \quad D = s_1 - s_0

    with :math:`s` optimizer steps. It differs from :func:`bilevel.dynamic.rigl`: at a change of
    RigL the batch serves the masks alone, weights and :math:`s` stay; masked weights keep their
    stored value and momentum, and weight decay sees them; what enters starts anew; the first change
    is at ``begin``, the cosine runs from step 0 although changes begin later; magnitudes are
    compared with noise. Its SET makes the step first, then the change.

    Args:
      lower_step: Step of the weights: an optax optimizer, weight decay included, or a number or
        schedule for SGD.
      density: Share that is kept, in (0, 1].
      method: ``"rigl"``, which grows by gradient, or ``"set"``, at random.
      every: Optimizer steps between changes, >= 1.
      begin: :math:`s_0 >= 0`, the first step of a change.
      end: :math:`s_1 > s_0`, the last step of a change; None for no end, with a constant share.
      fraction: :math:`p_0` in [0, 1].
      decay: ``"cosine"``, ``"constant"``, or the exponent a of the other.
      noise: Standard deviation of the noise on magnitudes, >= 0.
      grown_weight: What enters starts at this multiple of its gradient (their ``grad_scale_10``
        is 0.1).
      grown_momentum: Momentum of what enters, as a multiple of its gradient; other than 0 it
        needs an optimizer with a ``trace``.
      draws: Noise and growth from elsewhere: a function from the number of changes made before to
        the noise on magnitudes and numbers in [0, 1) for ``"set"``, trees shaped like the masks.
      distribution: Of the density at the start: ``"erk"`` or ``"uniform"``.
      seed: Of start, noise and growth.
      axis_name: Mapped axis to average over inside the user's own ``pmap`` or ``shard_map``.

    Returns:
      A :class:`bilevel.Solver`. ``init(problem, x0, y0, *, stats=None, key=None)`` as that of
      :func:`bilevel.dynamic_sparse`; weights under masks are kept as given. ``step(state, batch)``
      has metrics ``loss``, ``density`` and ``exchanged``, the number of masks that changed.
      ``export(state)`` returns ``(params, masks)`` with exact zeros.

    Raises:
      ValueError: On an argument outside its range.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> solver = bilevel.dynamic.rigl_program(0.1, 0.5, every=2, end=8)
      >>> problem = bilevel.pruning.problem(lambda p, batch: jnp.sum((p["w"] - batch) ** 2))
      >>> state = solver.init(problem, None, {"w": jnp.zeros((2, 2))})
      >>> for _ in range(3):  # The first call is a change.
      ...   state, metrics = solver.step(state, jnp.array([[0.0, 3.0], [0.0, 3.0]]))
      >>> int(state.count), int(state.steps), float(metrics["density"])
      (3, 2, 0.5)

    References:
      Evci et al., Rigging the Lottery: Making All Tickets Winners, ICML 2020.
    """
    tx = _common.step("lower_step", lower_step)
    _checks.number("density", density, 0, 1, open_low=True)
    _checks.choice("method", method, ["rigl", "set"])
    _checks.count("every", every)
    _checks.count("begin", begin, 0)
    if isinstance(decay, str):
        _checks.choice("decay", decay, ["cosine", "constant"], "a number")
    else:
        _checks.number("decay", decay, 0)
    if end is not None:
        _checks.count("end", end, begin + 1)
    elif decay != "constant":
        raise ValueError(f"decay={decay!r} needs end, got None")
    _checks.number("fraction", fraction, 0, 1)
    _checks.number("noise", noise, 0)
    _checks.number("grown_weight", grown_weight)
    _checks.number("grown_momentum", grown_momentum)
    _checks.choice("distribution", distribution, ["erk", "uniform"])

    def share(s: jax.Array) -> jax.Array:
        # In float32, as the counts below.
        if end is None or decay == "constant":
            return jnp.float32(fraction)
        length = end - begin
        if decay == "cosine":
            turn = jnp.minimum(s, length).astype(jnp.float32) * (jnp.pi / length)
            return jnp.float32(fraction / 2) * (1 + jnp.cos(turn))
        left = jnp.maximum(length - (s - begin), 0).astype(jnp.float32) / length
        return jnp.float32(fraction) * left ** jnp.float32(decay)

    def drawn(changes: jax.Array, key: jax.Array, masks: Any, y: Any) -> tuple[Any, Any]:
        if draws is not None:
            return draws(changes)
        to_noise, to_growth = jax.random.split(key)
        leaves, treedef = jax.tree.flatten(masks)
        keys = jax.tree.unflatten(treedef, list(jax.random.split(to_noise, len(leaves))))

        def normal(mask, w, k):
            return None if mask is None else noise * jax.random.normal(k, w.shape, w.dtype)

        return masks_lib.map_leaves(normal, masks, y, keys), uniforms(to_growth, masks)

    def init(
        problem: Problem, x0: Any, y0: Any, *, stats: Any = None, key: jax.Array | None = None
    ) -> RigLProgramState:
        _common.check_problem(problem)
        to_start, key = jax.random.split(jax.random.key(seed) if key is None else key)
        masks = start_masks(to_start, y0, density, distribution) if x0 is None else x0
        _common.check_fit("masks (x0)", masks, y0)
        masks_lib.warn(masks)
        masks, y, stats = _common.copy((masks, y0, stats))
        masks = jax.tree.map(lambda m: m.astype(bool), masks)
        opt = tx.init(y)
        if grown_momentum and optax.tree.get(opt, "trace") is None:
            raise ValueError(
                f"grown_momentum={grown_momentum:g} needs an optimizer with a trace, such as "
                "optax.sgd(..., momentum=0.9)"
            )
        zero, long_ago = jnp.int32(0), jnp.int32(-every)
        data = jax.random.key_data(key)
        return RigLProgramState(problem, zero, y, stats, masks, opt, zero, long_ago, zero, data)

    def change(state: RigLProgramState, g: Any) -> RigLProgramState:
        key, draw = jax.random.split(jax.random.wrap_key_data(state.key))
        jitter, uniform = drawn(state.changes, draw, state.masks, state.y)
        p = share(state.steps)

        def one(m: Any, w: Any, score: Any, e: Any) -> Any:
            if m is None:
                return None
            live = m.sum()
            leave = (live.astype(jnp.float32) * p).astype(jnp.int32)
            kept = largest(jnp.where(m, jnp.abs(w), 0) + e, live - leave)
            return kept | largest(jnp.where(kept, -1, jnp.abs(score)), leave)

        scores = g if method == "rigl" else uniform
        masks = masks_lib.map_leaves(one, state.masks, state.y, scores, jitter)
        grown = jax.tree.map(lambda new, old: new & ~old, masks, state.masks)
        others = jax.tree.map(jnp.logical_not, grown)
        y, opt = masks_lib.apply(others, state.y), clean(others, state.y, state.opt)

        def start(scale, values):
            def one(mask, x, gx):
                return x if mask is None else jnp.where(mask, scale * gx, x)

            return masks_lib.map_leaves(one, grown, values, g)

        if grown_weight:
            y = start(grown_weight, y)
        if grown_momentum:
            opt = optax.tree.set(opt, trace=start(grown_momentum, optax.tree.get(opt, "trace")))
        return state._replace(
            y=y,
            opt=opt,
            masks=masks,
            last=state.steps,
            changes=state.changes + 1,
            key=jax.random.key_data(key),
        )

    def train(state: RigLProgramState, g: Any) -> RigLProgramState:
        updates, opt = tx.update(masks_lib.apply(state.masks, g), state.opt, state.y)
        y = optax.apply_updates(state.y, updates)
        return state._replace(y=y, opt=opt, steps=state.steps + 1)

    def due(state: RigLProgramState) -> jax.Array:
        s = state.steps
        inside = (s >= begin) & (s >= state.last + every)
        return inside if end is None else inside & (s <= end)

    def step(state: RigLProgramState, batch: Any) -> tuple[RigLProgramState, dict[str, Any]]:
        z, before = masks_lib.apply(state.masks, state.y), state.masks
        value, stats, g = _common.gradient(state, z, batch, axis_name)
        state = state._replace(count=state.count + 1, stats=stats)
        if method == "rigl":
            state = jax.lax.cond(due(state), change, train, state, g)
        else:
            state = train(state, g)
            state = jax.lax.cond(due(state), change, lambda s, _: s, state, g)
        return state, {
            "loss": value,
            "density": masks_lib.density(state.masks),
            "exchanged": _common.flips(before, state.masks),
        }

    def doubts(state: RigLProgramState) -> tuple[str, ...]:
        return masks_lib.doubts(state.masks, density)

    return _common.mask_solver("rigl_program", init, step, doubts, axis_name)
