"""Training of N:M masks: the N largest of each M weights, and gradients that pass the mask."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel.problem import Problem, Solver
from bilevel.pruning import _common
from bilevel.pruning import density as density_lib
from bilevel.pruning import masks as masks_lib
from bilevel.pruning._cut import Axes, axes_in
from bilevel.pruning._select import largest_in_groups
from optim import _checks

__all__ = ["NMState", "faded", "nm_mask", "nm_training", "sr_ste"]

RULES = ("ste", "sr_ste", "linear", "exponential", "structure")


def _largest(w: jax.Array, n: Any, m: int, axes: tuple[int, ...]) -> jax.Array:
    last = tuple(range(w.ndim - len(axes), w.ndim))
    x = jnp.moveaxis(jnp.abs(w), axes, last)
    kept = largest_in_groups(x.reshape(-1, m), n)
    return jnp.moveaxis(kept.reshape(x.shape), last, axes)


def nm_mask(w: jax.Array, structure: str = "2:4", axis: int = -2) -> jax.Array:
    """Returns the mask of the N largest magnitudes of each M consecutive weights.

    :func:`bilevel.masks.from_scores` makes such masks of whole trees.

    Args:
      w: Weights.
      structure: ``"N:M"``, 0 < N <= M.
      axis: The axis along which groups run, of a multiple of M entries: the one that a product
        contracts, -2 of Flax's kernels.

    Raises:
      ValueError: On a structure that is none or does not fit the axis.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> bilevel.nm.nm_mask(jnp.array([1.0, -4.0, 3.0, 2.0]), "1:2", axis=-1)
      Array([False,  True,  True, False], dtype=bool)
    """
    n, m = _pair(structure)
    if not -w.ndim <= axis < w.ndim or w.shape[axis] % m:
        raise ValueError(
            f"structure {structure!r} needs an axis of a multiple of {m}: axis {axis} of {w.shape}"
        )
    return _largest(w, n, m, (axis % w.ndim,))


def _pair(structure: str) -> tuple[int, int]:
    pair = masks_lib.Cut(structure=structure).n_of_m
    if pair is None:
        raise ValueError(f"structure must be 'N:M' (such as '2:4'), got {structure!r}")
    return pair


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _fade(w: jax.Array, mask: jax.Array, delta: Any, decay: Any, soft: bool) -> jax.Array:
    return jnp.where(mask, w, delta * w)


def _fade_forward(w, mask, delta, decay, soft):
    return _fade(w, mask, delta, decay, soft), (w, mask, delta, decay)


def _fade_backward(soft, saved, dz):
    w, mask, delta, decay = saved
    g = jnp.where(mask, dz, delta * dz) if soft else dz
    return g + jnp.where(mask, jnp.zeros((), w.dtype), decay * w), None, None, None


_fade.defvjp(_fade_forward, _fade_backward)


def faded(
    w: jax.Array, mask: jax.Array, delta: Any, *, decay: Any = 0.0, backward: str = "straight"
) -> jax.Array:
    r"""Weights whose masked part is faded, with a gradient that passes straight through.

    .. math::
      z = w \odot (m + (1 - m)\,\delta), \qquad
      \frac{\partial \ell}{\partial w} := \frac{\partial \ell}{\partial z} + \lambda (1 - m) \odot w

    Args:
      w: Weights.
      mask: Boolean, shaped like the weights.
      delta: Factor :math:`\delta` on what the mask drops: 1 is dense, 0 the straight-through
        estimator; may be traced (:func:`bilevel.density.residue`).
      decay: :math:`\lambda` of SR-STE; may be traced.
      backward: ``"straight"``, or ``"soft"``: the gradient is multiplied by
        :math:`m + (1 - m) \delta` too (ours; the papers' "restricted gradient flow" has no such
        part in their code).

    Raises:
      ValueError: On another ``backward``, or a mask of another shape.

    Example:
      >>> import jax, jax.numpy as jnp, bilevel
      >>> w, m = jnp.array([2.0, 1.0]), jnp.array([True, False])
      >>> bilevel.nm.faded(w, m, 0.5)
      Array([2. , 0.5], dtype=float32)
      >>> jax.grad(lambda w: bilevel.nm.faded(w, m, 0.5, decay=0.1).sum())(w)
      Array([1. , 1.1], dtype=float32)

    References:
      Kao et al., Training Recipe for N:M Structured Sparsity with Decaying Pruning Mask, 2022;
      Bambhaniya et al., Progressive Gradient Flow for Robust N:M Sparsity Training, 2024.
    """
    _checks.choice("backward", backward, ["straight", "soft"])
    if jnp.shape(mask) != jnp.shape(w):
        raise ValueError(f"mask of shape {jnp.shape(mask)} for weights of shape {jnp.shape(w)}")
    dtype = jnp.result_type(w)
    delta, decay = jnp.asarray(delta, dtype), jnp.asarray(decay, dtype)
    return _fade(w, mask, delta, decay, backward == "soft")


def sr_ste(w: jax.Array, structure: str = "2:4", decay: Any = 2e-4, *, axis: int = -2) -> jax.Array:
    r"""N:M weights of a dense one: SR-STE, for a loss of one's own and any optimizer.

    .. math::
      z = m \odot w, \qquad
      \frac{\partial \ell}{\partial w} := \frac{\partial \ell}{\partial z} + \lambda (1 - m) \odot w

    with the mask of the N largest of each M at every call. The authors' module drops the bias of
    linear layers, cannot be given :math:`\lambda`, and groups over the flattened matrix.

    Args:
      w: Weights.
      structure: See :func:`nm_mask`.
      decay: :math:`\lambda >= 0`; 0 is the plain straight-through estimator.
      axis: See :func:`nm_mask`.

    Raises:
      ValueError: See :func:`nm_mask`.

    Example:
      >>> import jax, jax.numpy as jnp, bilevel
      >>> w = jnp.array([[1.0], [3.0]])
      >>> z, pull = jax.vjp(lambda w: bilevel.nm.sr_ste(w, "1:2", decay=0.5), w)
      >>> z[:, 0], pull(jnp.ones((2, 1)))[0][:, 0]
      (Array([0., 3.], dtype=float32), Array([1.5, 1. ], dtype=float32))

    References:
      Zhou et al., Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch, ICLR
      2021.
    """
    _checks.number("decay", decay, 0)
    mask = nm_mask(jax.lax.stop_gradient(w), structure, axis)
    return faded(w, mask, 0.0, decay=decay)


def _are_stages(rule: Any, m: int) -> bool:
    try:
        pairs = [(int(first), int(n)) for first, n in rule]
    except (TypeError, ValueError):
        return False
    return bool(pairs) and all(first >= 0 and 0 < n <= m for first, n in pairs)


class NMState(NamedTuple):
    """State of :func:`bilevel.nm_training`.

    Attributes:
      problem: The problem, part of the structure.
      count: Steps made, int32 of shape ().
      y: Dense weights; shapes as given.
      stats: Statistics of the model, or None.
      masks: The N:M masks of the last step, ``None`` where a leaf is not pruned.
      opt: State of the optimizer.
    """

    problem: Problem
    count: jax.Array
    y: Any
    stats: Any
    masks: Any
    opt: Any

    @property
    def x(self) -> Any:
        """The masks of the last step."""
        return self.masks

    params = _common.PARAMS


def nm_training(
    lower_step: Any,
    structure: str = "2:4",
    rule: str | Callable[[Any], Any] | Sequence[tuple[int, int]] = "sr_ste",
    *,
    steps: int | None = None,
    dense: int = 0,
    finetune: int = 0,
    fade: float | None = None,
    decay: float | None = None,
    backward: str = "straight",
    prunable: masks_lib.Rule | None = None,
    cut: masks_lib.Cut | None = None,
    axis_name: str | None = None,
) -> Solver:
    r"""Trains dense weights through the N largest of each M, at every step anew.

    .. math::
      z = \theta \odot (m + (1 - m)\,\delta_t), \qquad
      \theta \leftarrow \theta + \mathrm{lower}\big(\nabla_z \ell(z) + \lambda (1 - m) \odot
      \theta\big)

    In the first ``dense`` steps :math:`\delta = 1` and :math:`\lambda = 0`, in the last
    ``finetune`` ones :math:`\delta = 0`. Between them, by ``rule``, with :math:`t` counted from the
    end of the dense steps:

    ===============  ================================================================
    ``ste``          :math:`\delta = 0`: straight-through
    ``sr_ste``       :math:`\delta = 0`, :math:`\lambda` = ``decay``
    ``linear``       :math:`\delta = \max(0, 1 - \beta t)`, :math:`\beta` = ``fade``
    ``exponential``  :math:`\delta = e^{-\beta t}`
    ``structure``    :math:`\delta = 0`; M-1:M, M/2:M, M/4:M, ..., N:M in equal parts
    ===============  ================================================================

    The authors' code begins to fade inside of the dense steps (an offset is divided by 100 twice)
    and takes the last mask one epoch late; a function as ``rule`` gives any :math:`\delta`, a list
    of pairs any stages.

    Args:
      lower_step: Step of the weights: an optax optimizer, or a number or schedule for SGD.
      structure: ``"N:M"``; groups run along the inputs of a kernel, as in
        :class:`bilevel.masks.Cut`.
      rule: One of the above; a function from the step (from 0) to :math:`\delta`, for the steps
        after the dense ones; or pairs of the first step of a stage and its N.
      steps: Steps of the run; needed with ``finetune`` and by ``structure``.
      dense: Steps before the first mask, >= 0.
      finetune: Steps at the end with the masks of N:M alone, >= 0.
      fade: :math:`\beta > 0`. Default: :math:`\delta` falls over the steps between, to 0
        (``linear``) or 0.01 (``exponential``).
      decay: :math:`\lambda >= 0`. Default: 2e-4 for ``sr_ste``, else 0.
      backward: See :func:`bilevel.nm.faded`.
      prunable: Which leaves are pruned; see :func:`bilevel.masks.prunable`. Each needs inputs of a
        multiple of M.
      cut: Axes of the kernels, where they are not Flax's; its structure is ``structure``.
      axis_name: Mapped axis to average over inside the user's own ``pmap`` or ``shard_map``.

    Returns:
      A :class:`bilevel.Solver`. ``init(problem, x0, y0, *, stats=None)`` takes a problem of
      :func:`bilevel.pruning.problem`, None for ``x0`` and parameters ``y0``. ``step(state, batch)``
      returns metrics ``loss``, ``density``, ``delta`` and ``flips``, the number of masks that
      changed. ``export(state)`` returns ``(params, masks)`` with exactly N in each group.

    Raises:
      ValueError: On an argument outside its range, on masks for ``x0``, or at ``init`` on a leaf
        whose inputs are no multiple of M (named).

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> solver = bilevel.nm_training(0.1, "1:2", "linear", steps=20, finetune=5)
      >>> loss = lambda params, batch: jnp.sum((params["w"] - batch) ** 2)
      >>> problem = bilevel.pruning.problem(loss)
      >>> state = solver.init(problem, None, {"w": jnp.ones((2, 1))})
      >>> for _ in range(20):
      ...   state, metrics = solver.step(state, jnp.array([[3.0], [0.5]]))
      >>> solver.export(state)[0]["w"][:, 0].round(1)
      Array([3., 0.], dtype=float32)

    References:
      Zhou et al., Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch, ICLR
      2021; Kao et al., Training Recipe for N:M Structured Sparsity with Decaying Pruning Mask,
      2022; Bambhaniya et al., Progressive Gradient Flow for Robust N:M Sparsity Training, 2024.
    """
    tx = _common.step("lower_step", lower_step)
    n, m = _pair(structure)
    if isinstance(rule, str) or not (callable(rule) or _are_stages(rule, m)):
        _checks.choice("rule", rule, RULES, f"a function or pairs of a step and an N <= {m}")
    _checks.count("dense", dense, 0)
    _checks.count("finetune", finetune, 0)
    if steps is None:
        if finetune or rule == "structure":
            raise ValueError(f"finetune={finetune} with rule={rule!r} needs steps, got None")
    else:
        _checks.count("steps", steps, dense + finetune + 1)
    if fade is not None:
        _checks.number("fade", fade, 0, open_low=True)
    elif rule in ("linear", "exponential"):
        if steps is None:
            raise ValueError(f"rule={rule!r} needs fade or steps")
        fade = (1.0 if rule == "linear" else 4.60517) / (steps - dense - finetune)
    decay = (2e-4 if rule == "sr_ste" else 0.0) if decay is None else decay
    _checks.number("decay", decay, 0)
    _checks.choice("backward", backward, ["straight", "soft"])
    cut = masks_lib.cut_of(cut, structure=structure)
    stages = None
    if rule == "structure" and steps is not None:
        found = density_lib.n_of_m(n, m, epochs=steps, dense=dense, finetune=finetune)
        stages = jnp.array([[first, k] for first, k, _ in found], jnp.int32)
    elif not isinstance(rule, str) and not callable(rule):
        stages = jnp.array(rule, jnp.int32)

    def delta_at(t: jax.Array) -> Any:
        delta: Any = 0.0
        if callable(rule):
            delta = rule(t)
        elif rule in ("linear", "exponential") and fade is not None:
            delta = density_lib.residue(t - dense, fade, kind=rule)
        if steps is not None:
            delta = jnp.where(t >= steps - finetune, 0.0, delta)
        return jnp.where(t < dense, 1.0, delta)

    def kept_at(t: Any) -> Any:
        if stages is None:
            return n
        return stages[jnp.maximum((t >= stages[:, 0]).sum() - 1, 0), 1]

    def axes_of(params: Any) -> list[Axes]:
        return axes_in(masks_lib.prunable(params, prunable), cut)

    def masks_of(params: Any, kept: Any) -> Any:
        chosen = masks_lib.prunable(params, prunable)
        leaves, treedef = jax.tree.flatten(chosen)
        pairs = zip(leaves, axes_of(params), strict=True)
        masks = [_largest(jax.lax.stop_gradient(w), kept, m, axes.inputs) for w, axes in pairs]
        return jax.tree.unflatten(treedef, masks)

    def init(problem: Problem, x0: Any, y0: Any, *, stats: Any = None) -> NMState:
        _common.check_problem(problem)
        if x0 is not None:
            raise ValueError("nm_training finds its masks in the weights: x0 must be None")
        y, stats = _common.copy((y0, stats))
        return NMState(problem, jnp.int32(0), y, stats, masks_of(y, n), tx.init(y))

    def step(state: NMState, batch: Any) -> tuple[NMState, dict[str, Any]]:
        t = state.count
        delta, masks = delta_at(t), masks_of(state.y, kept_at(t))
        lam = jnp.where(t < dense, 0.0, decay)

        def forward(y):
            def one(mask, w):
                return w if mask is None else faded(w, mask, delta, decay=lam, backward=backward)

            return masks_lib.map_leaves(one, masks, y)

        z, pull = jax.vjp(forward, state.y)
        value, stats, gz = _common.gradient(state, z, batch, axis_name)
        updates, opt = tx.update(pull(gz)[0], state.opt, state.y)
        y = optax.apply_updates(state.y, updates)
        new = NMState(state.problem, t + 1, y, stats, masks, opt)
        density = jnp.where(delta == 0, masks_lib.density(masks), 1.0)
        flips = _common.flips(state.masks, masks)
        return new, {"loss": value, "density": density, "delta": delta, "flips": flips}

    def doubts(state: NMState) -> tuple[str, ...]:
        made = _common.made(state)
        if made is None:
            return ()
        if made and float(delta_at(jnp.int32(made - 1))) == 0 and kept_at(made - 1) == n:
            return ()
        return (f"the last of {made} steps was not made with {structure} masks alone",)

    def last_masks(state: NMState) -> Any:
        return masks_of(state.y, n)

    return _common.mask_solver("nm_training", init, step, doubts, axis_name, last_masks)
