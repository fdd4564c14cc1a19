"""Sparsity-informed adaptive pruning: rounds that prune as much as the PQ index says."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.pruning import _common
from bilevel.pruning import masks as masks_lib
from bilevel.pruning.report import sap_count
from optim import _checks

__all__ = ["sap_masks"]


def _index(w: np.ndarray, p: float, q: float) -> float:
    """The PQ index of surviving weights, 0 of none and of zeros."""
    small, large = (w**p).sum() ** (1 / p), (w**q).sum() ** (1 / q)
    if large == 0:
        return 0.0
    # Of equal weights it is 0, which rounding may miss from below.
    return max(1 - len(w) ** (1 / q - 1 / p) * small / large, 0.0)


def sap_masks(
    masks: Any,
    params: Any,
    *,
    p: float = 0.5,
    q: float = 1.0,
    eta: float = 0.0,
    gamma: float = 1.0,
    beta: float = 0.9,
    scope: str = "global",
    cut: masks_lib.Cut | None = None,
    floats: bool = False,
) -> Any:
    r"""Returns the masks of the next round of SAP.

    .. math::
      r = \left\lceil d\,(1+\eta)^{-q/(q-p)} (1-I)^{pq/(q-p)} \right\rceil, \qquad
      \left\lfloor d \min(\max(\gamma (1 - r/d), 0), \beta) \right\rfloor
      \text{ smallest } |w| \text{ leave}

    of the :math:`d` surviving weights of the model, of each layer, or of each neuron, with their PQ
    index :math:`I` (:func:`bilevel.pq_index`). Between rounds weights are rewound and trained. With
    :math:`\gamma = 1` it is :math:`d - r`, at most :math:`\lfloor \beta d \rfloor`, in whole
    numbers. The authors' program prunes the state of the best test epoch; pass the one you mean.

    Args:
      masks: Masks in force, ``None`` where a leaf is not pruned.
      params: Trained parameters. Called with concrete arrays, between rounds.
      p, q: Norms of the index, 0 < p <= 1, p < q.
      eta: Of the bound, >= 0.
      gamma: Factor on the share, > 0.
      beta: Largest share, in (0, 1].
      scope: ``"global"``, ``"layer"`` or ``"neuron"``: one index for each output of a kernel.
      cut: Axes of the kernels, where they are not Flax's.
      floats: Whether the share is rounded to float32 as in the authors' code, which prunes one
        weight fewer in one of seven cases (:func:`bilevel.sap_count`).

    Raises:
      ValueError: On an argument outside its range, or a NaN.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> w = jnp.array([[4.0, 0.1], [0.1, 0.2]])
      >>> bilevel.pruning.sap_masks({"w": jnp.ones((2, 2), bool)}, {"w": w})["w"]
      Array([[ True, False],
             [ True,  True]], dtype=bool)

    References:
      Diao et al., Pruning Deep Neural Networks from a Sparsity Perspective, ICLR 2023.
    """
    _checks.choice("scope", scope, ["global", "layer", "neuron"])
    _checks.number("p", p, 0, 1, open_low=True)
    _checks.number("q", q, p, open_low=True)
    _checks.number("eta", eta, 0)
    _checks.number("gamma", gamma, 0, open_low=True)
    _checks.number("beta", beta, 0, 1, open_low=True)
    cut = masks_lib.cut_of(cut)
    _common.check_fit("masks", masks, params)
    chosen = masks_lib.map_leaves(lambda m, w: None if m is None else w, masks, params)
    masks_lib.refuse_nan("params", chosen)

    def count(w: np.ndarray) -> int:
        d, index = len(w), _index(w, p, q)
        if floats:
            return int(sap_count(index, d, p, q, eta=eta, gamma=gamma, beta=beta))
        power = q / (q - p)
        r = np.ceil(d * (1 + eta) ** -power * (1 - index) ** (p * power))
        if gamma == 1:
            return int(min(max(d - r, 0), np.floor(beta * d)))
        return int(np.floor(d * min(max(gamma * (1 - r / d), 0), beta)))

    def pruned(mask: np.ndarray, w: np.ndarray) -> np.ndarray:
        live = np.flatnonzero(mask)
        if not live.size:
            return mask
        sizes = np.abs(w[live]).astype(np.float64)
        new = mask.copy()
        new[live[np.argsort(sizes, kind="stable")[: count(sizes)]]] = False
        return new

    leaves, treedef = jax.tree.flatten(masks)
    old = [np.asarray(m) for m in leaves]
    weights = [np.asarray(w) for w in jax.tree.leaves(chosen)]
    if scope == "global":
        flat = pruned(*(np.concatenate([x.ravel() for x in part]) for part in (old, weights)))
        ends = np.cumsum([m.size for m in old])[:-1]
        new = [part.reshape(m.shape) for part, m in zip(np.split(flat, ends), old, strict=True)]
    elif scope == "layer":
        new = [pruned(m.ravel(), w.ravel()).reshape(m.shape)
               for m, w in zip(old, weights, strict=True)]  # fmt: skip
    else:
        paths = jax.tree_util.tree_flatten_with_path(masks)[0]
        new = []
        for (path, _), m, w in zip(paths, old, weights, strict=True):
            outputs = cut.of(masks_lib.path_name(path), m).outputs
            last = tuple(range(m.ndim - len(outputs), m.ndim))
            moved = np.moveaxis(m, outputs, last)
            size = int(np.prod([m.shape[i] for i in outputs]))
            rows = moved.reshape(-1, size).T
            values = np.moveaxis(w, outputs, last).reshape(-1, size).T
            cuts = np.stack([pruned(a, b) for a, b in zip(rows, values, strict=True)])
            new.append(np.moveaxis(cuts.T.reshape(moved.shape), last, outputs))
    return jax.tree.unflatten(treedef, [jnp.asarray(m) for m in new])
