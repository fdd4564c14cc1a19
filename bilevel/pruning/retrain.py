"""Retraining of few parameters after pruning (PERP): biases, norms, masked low-rank adapters."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bilevel.problem import Problem, Solver
from bilevel.pruning import _common
from bilevel.pruning import masks as masks_lib
from optim import _checks

__all__ = ["RetrainState", "mask_lora", "select", "training"]

_MODES = ("masked", "pruned", "scale")

_KINDS = {
    "bias": re.compile(r"(^|/)(bias|b|offset)$"),
    "norm": re.compile(r"norm|(^|/)(ln|bn)[_\d]*(/|$)|(^|/)(scale|gamma|beta)$", re.IGNORECASE),
}


def select(params: Any, kinds: tuple[str, ...] = ("bias", "norm")) -> Any:
    """Returns which parameters are retrained: booleans for ``optax.masked`` or ``partition``.

    Args:
      params: Parameters.
      kinds: ``"bias"``: leaves of that name; ``"norm"``: all of the norms.

    Raises:
      ValueError: On an unknown kind, or when a kind chooses nothing.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> params = {"dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
      >>> bilevel.retrain.select(params, ("bias",))
      {'dense': {'bias': True, 'kernel': False}}

    References:
      Zimmer et al., PERP: Rethinking the Prune-Retrain Paradigm in the Era of LLMs, 2023.
    """
    flat, treedef = jax.tree_util.tree_flatten_with_path(params)
    names = [masks_lib.path_name(path) for path, _ in flat]
    chosen = np.zeros(len(names), bool)
    for kind in kinds:
        _checks.choice("kinds", kind, _KINDS)
        found = np.array([bool(_KINDS[kind].search(name)) for name in names])
        if kind == "bias":  # The offset of a norm is one of the norm's.
            found &= np.array([not _KINDS["norm"].search(name) for name in names])
        if not found.any():
            raise ValueError(f"kinds: no leaf is a {kind}; the leaves are: {', '.join(names)}")
        chosen |= found
    return jax.tree.unflatten(treedef, [bool(x) for x in chosen])


def mask_lora(
    params: Any,
    masks: Any,
    rank: int,
    alpha: float | None = None,
    *,
    key: jax.Array,
    mode: str = "masked",
) -> tuple[Any, Callable[[Any, Any], Any]]:
    r"""Low-rank adapters of pruned kernels, which merge without bringing back what was pruned.

    .. math::
      W + \tfrac{\alpha}{r}\, L R \odot m \text{ (masked)}, \qquad
      W + \tfrac{\alpha}{r}\, L R \text{ (pruned: masked when merged)}, \qquad
      W \odot L R \text{ (scale)}

    A kernel counts as a matrix of all axes but the last times the last. The masks are given (the
    authors read them from :math:`W \ne 0`, where a weight that is kept and zero is lost).

    Args:
      params: Pruned parameters.
      masks: Their masks, ``None`` where a leaf is not pruned.
      rank: :math:`r >= 1`.
      alpha: :math:`\alpha > 0`; default: ``rank``.
      key: Of the start: L is normal, R zero; with ``"scale"`` both are :math:`1 / \sqrt r`.
      mode: ``"masked"``, ``"pruned"`` or ``"scale"``.

    Returns:
      ``(adapters, merge)``: a tree with ``left`` and ``right`` for each mask, ``None`` elsewhere;
      and ``merge(adapters, params, final=False) -> params``, differentiable, for the loss and, with
      ``final=True``, for the result, whose pruned weights are zero in each mode.

    Raises:
      ValueError: On arguments outside their ranges, or a masked leaf of one axis (named).

    Example:
      >>> import jax, jax.numpy as jnp, bilevel
      >>> params, masks = {"w": jnp.array([[1.0, 0.0]])}, {"w": jnp.array([[True, False]])}
      >>> adapters, merge = bilevel.retrain.mask_lora(params, masks, 1, key=jax.random.key(0))
      >>> adapters["w"]["right"] = jnp.ones((1, 2))
      >>> bool(merge(adapters, params)["w"][0, 1] == 0)
      True

    References:
      Zimmer et al., PERP: Rethinking the Prune-Retrain Paradigm in the Era of LLMs, 2023.
    """
    _checks.count("rank", rank)
    _checks.choice("mode", mode, _MODES)
    alpha = float(rank) if alpha is None else alpha
    _checks.number("alpha", alpha, 0, open_low=True)
    adapters = _adapters(masks, rank, mode, key)

    def merge(adapters: Any, params: Any, final: bool = False) -> Any:
        return _merged(masks, params, adapters, alpha / rank, mode, final)

    return adapters, merge


def _adapters(masks: Any, rank: int, mode: str, key: jax.Array) -> Any:
    flat, treedef = jax.tree_util.tree_flatten_with_path(masks)
    keys = jax.random.split(key, max(len(flat), 1))
    made = []
    for (path, mask), k in zip(flat, keys, strict=True):
        shape = jnp.shape(mask)
        if len(shape) < 2:
            raise ValueError(f"{masks_lib.path_name(path)} of shape {shape} is no matrix")
        rows = int(np.prod(shape[:-1]))
        left = jax.random.normal(k, (rows, rank)) / np.sqrt(rows)
        right = jnp.zeros((rank, shape[-1]))
        if mode == "scale":
            left, right = (jnp.full(x.shape, rank**-0.5) for x in (left, right))
        made.append({"left": left, "right": right})
    return jax.tree.unflatten(treedef, made)


def _merged(masks: Any, params: Any, adapters: Any, scale: float, mode: str, final: bool) -> Any:
    def one(mask, w, adapter):
        if mask is None:
            return w
        product = (adapter["left"] @ adapter["right"]).reshape(w.shape).astype(w.dtype)
        new = w * product if mode == "scale" else w + scale * product
        return jnp.where(mask, new, 0 if mode == "masked" or final else new)

    return masks_lib.map_leaves(one, masks, params, adapters)


class RetrainState(NamedTuple):
    """State of :func:`bilevel.retrain.training`.

    Attributes:
      problem: The problem, part of the structure.
      count: Steps made, int32 of shape ().
      x: The masks, which stay.
      y: Parameters, of which those that are chosen have changed.
      adapters: Low-rank adapters of the masked leaves, or None.
      stats: Statistics of the model, or None.
      opt: State of the optimizer.
    """

    problem: Problem
    count: jax.Array
    x: Any
    y: Any
    adapters: Any
    stats: Any
    opt: Any

    masks = property(lambda state: state.x, doc="The masks, ``x``.")
    params = _common.PARAMS


def training(
    lower_step: Any,
    kinds: tuple[str, ...] | None = None,
    *,
    rank: int = 0,
    alpha: float | None = None,
    mode: str = "masked",
    seed: int = 0,
    axis_name: str | None = None,
) -> Solver:
    r"""PERP: retrains biases, norms and low-rank adapters of a pruned model; kernels stay.

    Args:
      lower_step: Step of what is retrained: an optax optimizer, or a number or schedule for SGD.
      kinds: See :func:`select`; default: those that the model has.
      rank: Rank of the adapters, see :func:`mask_lora`; 0 for none.
      alpha: See :func:`mask_lora`.
      mode: See :func:`mask_lora`.
      seed: Of the adapters.
      axis_name: Mapped axis to average over inside the user's own ``pmap`` or ``shard_map``.

    Returns:
      A :class:`bilevel.Solver`. ``init(problem, masks, params, *, stats=None)`` takes a problem of
      :func:`bilevel.pruning.problem`. ``step(state, batch)`` has metrics ``loss``, ``density`` and
      ``trained``, the share of the model's numbers that is retrained. ``export(state)`` returns
      ``(params, masks)`` with the adapters merged and exact zeros.

    Raises:
      ValueError: On an argument outside its range; at ``init`` without masks, or when a kind
        chooses nothing.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> params = {"kernel": jnp.array([[1.0, 0.0]]), "bias": jnp.zeros(2)}
      >>> masks = {"kernel": jnp.array([[True, False]]), "bias": None}
      >>> loss = lambda p, x: jnp.mean((x @ p["kernel"] + p["bias"][None] - 1) ** 2)
      >>> solver = bilevel.retrain.training(0.5, ("bias",))
      >>> state = solver.init(bilevel.pruning.problem(loss), masks, params)
      >>> for _ in range(20):
      ...   state, metrics = solver.step(state, jnp.ones((4, 1)))
      >>> new, _ = solver.export(state)
      >>> new["kernel"], new["bias"].round(2), float(metrics["trained"])
      (Array([[1., 0.]], dtype=float32), Array([0., 1.], dtype=float32), 0.5)

    References:
      Zimmer et al., PERP: Rethinking the Prune-Retrain Paradigm in the Era of LLMs, 2023.
    """
    tx = _common.step("lower_step", lower_step)
    _checks.count("rank", rank, 0)
    _checks.choice("mode", mode, _MODES)
    if alpha is not None:
        _checks.number("alpha", alpha, 0, open_low=True)
    for kind in kinds or ():
        _checks.choice("kinds", kind, _KINDS)
    scale = (alpha or float(rank)) / max(rank, 1)

    def chosen(params: Any) -> Any:
        if kinds is not None:
            return select(params, kinds)
        found = jax.tree.map(lambda _: False, params)
        for kind in _KINDS:
            try:
                found = jax.tree.map(lambda a, b: a or b, found, select(params, (kind,)))
            except ValueError:
                continue
        return found

    def split(params: Any) -> Any:
        return jax.tree.map(lambda c, x: x if c else None, chosen(params), params)

    def together(params: Any, part: Any) -> Any:
        return masks_lib.map_leaves(lambda p, x: x if p is None else p, part, params)

    def whole(masks: Any, params: Any, trained: Any, final: bool = False) -> Any:
        part, adapters = trained
        params = masks_lib.apply(masks, together(params, part))
        if adapters is None:
            return params
        return _merged(masks, params, adapters, scale, mode, final)

    def init(problem: Problem, x0: Any, y0: Any, *, stats: Any = None) -> RetrainState:
        _common.check_problem(problem)
        if x0 is None:
            raise ValueError("retraining needs the masks of the pruned model for x0, got None")
        _common.check_fit("masks (x0)", x0, y0)
        masks, y, stats = _common.copy((x0, y0, stats))
        adapters = _adapters(masks, rank, mode, jax.random.key(seed)) if rank else None
        trained: Any = (split(y), adapters)
        if not jax.tree.leaves(trained):
            raise ValueError("nothing is retrained: the model has no bias and no norm, and rank=0")
        return RetrainState(problem, jnp.int32(0), masks, y, adapters, stats, tx.init(trained))

    def step(state: RetrainState, batch: Any) -> tuple[RetrainState, dict[str, Any]]:
        trained = (split(state.y), state.adapters)
        z, pull = jax.vjp(lambda trained: whole(state.x, state.y, trained), trained)
        value, stats, gz = _common.gradient(state, z, batch, axis_name)
        updates, opt = tx.update(pull(gz)[0], state.opt, trained)
        new_trained: Any = optax.apply_updates(trained, updates)
        part, adapters = new_trained
        y = together(state.y, part)
        new = RetrainState(state.problem, state.count + 1, state.x, y, adapters, stats, opt)
        count = sum(x.size for x in jax.tree.leaves(trained))
        share = jnp.float32(count / sum(x.size for x in jax.tree.leaves(state.y)))
        density = masks_lib.density(state.x)
        return new, {"loss": value, "density": density, "trained": share}

    def export(state: RetrainState) -> tuple[Any, Any]:
        params = whole(state.x, state.y, (split(state.y), state.adapters), final=True)
        return _common.copy((params, state.x))

    solver = _common.mask_solver("retrain", init, step, lambda state: (), axis_name)
    return solver._replace(export=export)
