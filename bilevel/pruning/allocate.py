"""How a density is shared among layers: a tree of densities for ``from_scores(scope="layer")``."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.pruning import masks as masks_lib
from bilevel.pruning._search import evolve, rate_distortion
from optim import _checks

__all__ = [
    "erk",
    "evolve",
    "lamp",
    "lottery",
    "min_threshold",
    "rate_distortion",
    "uniform",
    "uniform_plus",
]


def _leaves(params: Any) -> tuple[list[Any], list[str], Any]:
    flat, treedef = jax.tree_util.tree_flatten_with_path(params)
    if not flat:
        raise ValueError("params has no leaf: nothing is prunable")
    return [x for _, x in flat], [masks_lib.path_name(p) for p, _ in flat], treedef


def _share(raw: np.ndarray, sizes: np.ndarray, density: float) -> np.ndarray:
    """Scales ``raw`` so that the total is met; layers that would exceed 1 are dense."""
    dense = np.zeros(len(raw), bool)
    while True:
        budget = density * sizes.sum() - sizes[dense].sum()
        scale = budget / (raw * sizes)[~dense].sum() if (~dense).any() else 0.0
        over = ~dense & (scale * raw > 1)
        if not over.any():
            return np.where(dense, 1.0, scale * raw)
        # The largest first, and only those: the others are rescaled before they are judged.
        dense |= over & (raw == raw[over].max())


def _matches(pattern: str | None, names: list[str]) -> np.ndarray:
    found = np.array([pattern is not None and bool(re.search(pattern, n)) for n in names])
    if pattern is not None and not found.any():
        raise ValueError(f"{pattern!r} matches none of {', '.join(names)}")
    return found


def uniform(params: Any, density: float) -> Any:
    """The same density in every layer.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> bilevel.allocate.uniform({"a": jnp.ones((2, 2)), "b": jnp.ones((4, 4))}, 0.5)
      {'a': 0.5, 'b': 0.5}
    """
    _checks.number("density", density, 0, 1, open_low=True)
    return jax.tree.map(lambda _: float(density), params)


def uniform_plus(
    params: Any, density: float, *, dense: str | None, last: str | None, last_density: float = 0.2
) -> Any:
    """Uniform, but for a dense first convolution and a classifier that keeps at least a fifth.

    Args:
      params: Prunable parameters (:func:`bilevel.masks.prunable`).
      density: Total density that the layers share, in (0, 1].
      dense: Regular expression of the paths that stay dense (the first convolution), or None.
      last: Regular expression of the classifier's path, or None.
      last_density: Least density of the classifier.

    Raises:
      ValueError: When a pattern matches nothing, or the dense layers alone exceed the budget.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> shapes = {"conv": (3, 3, 1, 4), "head": (4, 9), "mid": (8, 9)}
      >>> params = {name: jnp.ones(shape) for name, shape in shapes.items()}
      >>> bilevel.allocate.uniform_plus(params, 0.5, dense="conv", last="head")
      {'conv': 1.0, 'head': 0.333..., 'mid': 0.333...}

    References:
      Gale, Elsen, Hooker, The State of Sparsity in Deep Neural Networks, 2019.
    """
    leaves, names, treedef = _leaves(params)
    _checks.number("density", density, 0, 1, open_low=True)
    sizes = np.array([x.size for x in leaves], float)
    first, head = _matches(dense, names), _matches(last, names)
    fixed = first.copy()
    out = np.ones(len(leaves))
    for _ in range(2):
        budget = density * sizes.sum() - (out * sizes)[fixed].sum()
        if budget <= 0:
            raise ValueError(
                f"density {density} is less than the layers {dense!r} and {last!r} hold"
            )
        out[~fixed] = budget / sizes[~fixed].sum()
        if not (out[head & ~fixed] < last_density).any():
            break
        out[head] = last_density
        fixed |= head
    return jax.tree.unflatten(treedef, [float(min(d, 1.0)) for d in out])


def erk(params: Any, density: float, *, power: float = 1.0, kernel: bool = True) -> Any:
    r"""Erdős–Rényi(-Kernel): small layers are denser.

    .. math::
      d_l = \epsilon \left(\frac{\sum_i n_i}{\prod_i n_i}\right)^{power}, \qquad
      \sum_l d_l N_l = d N, \quad d_l \le 1

    Args:
      params: Prunable parameters.
      density: Total density, in (0, 1].
      power: Exponent of the ratio.
      kernel: Whether all axes of a convolution count (ERK) or only its two channel axes (ER).

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> bilevel.allocate.erk({"a": jnp.ones((100, 100)), "b": jnp.ones((10, 10))}, 0.1)
      {'a': 0.0918..., 'b': 0.918...}

    References:
      Evci et al., Rigging the Lottery, ICML 2020.
    """
    leaves, _, treedef = _leaves(params)
    _checks.number("density", density, 0, 1, open_low=True)
    shapes = [x.shape if kernel else x.shape[-2:] for x in leaves]
    raw = np.array([(np.sum(s) / np.prod(s)) ** power for s in shapes])
    out = _share(raw, np.array([x.size for x in leaves], float), density)
    return jax.tree.unflatten(treedef, [float(d) for d in out])


def lottery(params: Any, density: float, last: str, *, fraction: float = 0.2) -> Any:
    r"""Layer-wise IMP's: rounds prune ``fraction`` of each layer, and half of that of the last.

    .. math::
      d_l = d, \qquad d_{last} = (1 - f/2)^r \text{ after the } r = \log d / \log (1 - f)
      \text{ rounds}

    Args:
      params: Prunable parameters.
      density: Density :math:`d` of all layers but the last, in (0, 1].
      last: Regular expression of the last layer's path.
      fraction: Share :math:`f` that a round prunes, in (0, 1).

    Raises:
      ValueError: When the pattern matches nothing.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> params = {"hidden": jnp.ones((4, 4)), "last": jnp.ones((4, 2))}
      >>> bilevel.allocate.lottery(params, 0.64, last="last")
      {'hidden': 0.64, 'last': 0.81...}

    References:
      Frankle and Carbin, The Lottery Ticket Hypothesis, ICLR 2019.
    """
    _, names, treedef = _leaves(params)
    _checks.number("density", density, 0, 1, open_low=True)
    _checks.number("fraction", fraction, 0, 1, open_low=True, open_high=True)
    slow = _matches(last, names)
    kept = density ** (np.log1p(-fraction / 2) / np.log1p(-fraction))
    return jax.tree.unflatten(treedef, [float(kept if s else density) for s in slow])


def lamp(params: Any) -> Any:
    r"""LAMP scores: a global cut of these is a layer-adaptive magnitude cut.

    .. math::
      s_u = \frac{w_u^2}{\sum_{v:\, |w_v| \ge |w_u|} w_v^2}

    Returns:
      Scores for ``from_scores(..., scope="global")``; the largest weight of each layer has 1.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> bilevel.allocate.lamp({"w": jnp.array([1.0, 2.0])})
      {'w': Array([0.2, 1. ], dtype=float32)}

    References:
      Lee et al., Layer-adaptive Sparsity for the Magnitude-based Pruning, ICLR 2021.
    """

    def one(w):
        square = jnp.square(w).ravel()
        order = jnp.argsort(square)
        ascending = square[order]
        tail = jnp.cumsum(ascending[::-1])[::-1]
        scores = jnp.where(tail > 0, ascending / jnp.where(tail > 0, tail, 1), 0)
        return jnp.zeros_like(square).at[order].set(scores).reshape(w.shape)

    return jax.tree.map(one, params)


def min_threshold(params: Any, densities: Any, density: float, min_keep: int) -> Any:
    r"""Global magnitude pruning with a floor under every layer (GlobalMP's minimum threshold).

    The layers' sparsities :math:`s_l` of a global cut are scaled by one factor :math:`c`:

    .. math::
      s'_l N_l = \min(c\, s_l N_l,\; N_l - M), \qquad \sum_l s'_l N_l = (1 - d) N

    with :math:`s'_l = 0` where :math:`N_l < M`. This is the limit of the authors' repeated
    rescaling, which converges asymptotically and never ends when the floors exceed the budget.

    Args:
      params: Prunable parameters.
      densities: Tree of densities that the global cut left.
      density: Total density wanted, in (0, 1].
      min_keep: The floor :math:`M`: weights that each layer keeps.

    Raises:
      ValueError: When the floors exceed the budget.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> params = {"a": jnp.ones(100), "b": jnp.ones(100)}
      >>> bilevel.allocate.min_threshold(params, {"a": 0.0, "b": 0.4}, 0.2, 10)
      {'a': 0.0999..., 'b': 0.300...}
    """
    leaves, _, treedef = _leaves(params)
    _checks.number("density", density, 0, 1, open_low=True)
    _checks.count("min_keep", min_keep, 0)
    sizes = np.array([x.size for x in leaves], float)
    cut = (1 - np.array([float(d) for d in jax.tree.leaves(densities)])) * sizes
    cap = np.where(sizes < min_keep, 0.0, np.maximum(sizes - min_keep, 0))
    goal = (1 - density) * sizes.sum()
    reachable = cap[cut > 0].sum()
    if goal > reachable * (1 + 1e-12):
        raise ValueError(
            f"min_keep={min_keep} in {len(sizes)} layers keeps more than density {density} allows"
        )
    capped = (cut <= 0) | (cap <= 0)
    pruned = np.where(cut > 0, cap, 0.0)
    for _ in leaves:
        if capped.all():
            break
        factor = max(goal - pruned[capped].sum(), 0.0) / cut[~capped].sum()
        pruned[~capped] = factor * cut[~capped]
        over = ~capped & (pruned > cap)
        if not over.any():
            break
        pruned[over] = cap[over]
        capped |= over
    return jax.tree.unflatten(treedef, [float(d) for d in 1 - pruned / sizes])
