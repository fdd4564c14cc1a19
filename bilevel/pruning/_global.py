"""Global magnitude pruning with a floor under every layer."""

from typing import Any

import jax
import jax.numpy as jnp

from bilevel.pruning import allocate
from bilevel.pruning import masks as masks_lib
from optim import _checks

__all__ = ["global_masks"]


def global_masks(params: Any, density: float, min_keep: int = 0, *, authors: bool = False) -> Any:
    r"""Masks of the largest magnitudes of all layers, each of which keeps a minimum (Global MP).

    A global cut gives the layers' sparsities, which :func:`bilevel.allocate.min_threshold` scales
    so that no layer keeps fewer than ``min_keep`` and the density is met; layers smaller than that
    stay dense.

    Args:
      params: Prunable parameters (:func:`bilevel.masks.prunable`); what is pruned already is zero.
      density: Share that is kept, in (0, 1].
      min_keep: Weights that each layer keeps at least, >= 0. (The authors give a percentage p of
        all n weights: ``int(p * (n + 1) / 100)``.)
      authors: Whether weights are counted as in the authors' code: one number of memory that was
        never set takes part in the global cut, here as a zero; each layer keeps one weight more
        than its share.

    Raises:
      ValueError: On an argument outside its range, or floors that exceed the budget.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> params = {"a": jnp.array([9.0, 8.0, 7.0, 1.5]), "b": jnp.array([4.0, 3.0, 2.0, 1.0])}
      >>> bilevel.pruning.global_masks(params, 0.5, min_keep=2)["b"]
      Array([ True,  True, False, False], dtype=bool)

    References:
      Gupta et al., Is Complexity Required for Neural Network Pruning? A Case Study on Global
      Magnitude Pruning, 2022.
    """
    _checks.number("density", density, 0, 1, open_low=True)
    _checks.count("min_keep", min_keep, 0)
    _checks.flag("authors", authors)
    masks_lib.refuse_nan("params", params)
    sizes = [int(w.size) for w in jax.tree.leaves(params)]
    if authors:
        drop = max(int(round((1 - density) * (sum(sizes) + 1), 9)) - 2, 0)
    else:
        drop = masks_lib.drop_counts(params, density)
    cut = masks_lib.from_counts(params, drop)
    if not min_keep and not authors:
        return cut
    shares = jax.tree.map(lambda m: int(m.sum()) / m.size, cut)
    densities = allocate.min_threshold(params, shares, density, min_keep)
    if authors:

        def one(w: jax.Array, d: float) -> jax.Array:
            fewer = max(int(round((1 - d) * w.size, 9)) - 1, 0)
            return masks_lib.from_counts([w], [jnp.int32(fewer)], scope="layer")[0]

        return jax.tree.map(one, params, densities)
    return masks_lib.from_scores(params, densities, scope="layer")
