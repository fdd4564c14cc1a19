"""Retraining of few parameters after pruning (PERP): biases, norms, masked low-rank adapters."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.pruning import masks as masks_lib
from optim import _checks

__all__ = ["mask_lora", "select"]

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
    _checks.choice("mode", mode, ["masked", "pruned", "scale"])
    alpha = float(rank) if alpha is None else alpha
    _checks.number("alpha", alpha, 0, open_low=True)
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
    adapters = jax.tree.unflatten(treedef, made)

    def merge(adapters: Any, params: Any, final: bool = False) -> Any:
        def one(mask, w, adapter):
            if mask is None:
                return w
            product = (adapter["left"] @ adapter["right"]).reshape(w.shape).astype(w.dtype)
            new = w * product if mode == "scale" else w + alpha / rank * product
            return jnp.where(mask, new, 0 if mode == "masked" or final else new)

        return masks_lib.map_leaves(one, masks, params, adapters)

    return adapters, merge
