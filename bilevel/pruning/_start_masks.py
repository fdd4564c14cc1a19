"""Random masks to start sparse training from, with an exact number of weights."""

from typing import Any

import jax
import numpy as np

from bilevel.pruning import allocate, criteria
from bilevel.pruning import masks as masks_lib
from optim import _checks

__all__ = ["start_masks"]


def start_masks(key: jax.Array, params: Any, density: float, distribution: str = "erk") -> Any:
    """Returns random masks that keep exactly as many weights as the density says.

    Args:
      key: Of the draw; another one than the weights were drawn with, or what is kept depends on
        their values.
      params: Parameters; prunable leaves are those of :func:`bilevel.masks.prunable`.
      density: Share that is kept, in (0, 1].
      distribution: Of the density among the layers: ``"erk"`` (:func:`bilevel.allocate.erk`) or
        ``"uniform"``.

    Raises:
      ValueError: On a density outside (0, 1], or an unknown distribution.

    Example:
      >>> import jax, jax.numpy as jnp, bilevel
      >>> masks = bilevel.dynamic.start_masks(jax.random.key(0), {"w": jnp.ones((5, 4))}, 0.25)
      >>> int(bilevel.masks.count(masks))
      5
    """
    _checks.choice("distribution", distribution, ["erk", "uniform"])
    chosen = masks_lib.prunable(params)
    give = allocate.erk if distribution == "erk" else allocate.uniform
    densities = np.array(jax.tree.leaves(give(chosen, density)))
    leaves, treedef = jax.tree.flatten(chosen)
    sizes = np.array([x.size for x in leaves])
    total = sizes.sum() - masks_lib.drop_counts(chosen, density)
    # Whole numbers with the right sum: the largest remainders are rounded up.
    kept = np.minimum(np.floor(densities * sizes + 1e-9).astype(int), sizes)
    order = np.argsort(kept - densities * sizes + 2.0 * (kept == sizes), kind="stable")
    kept[order[: max(total - kept.sum(), 0)]] += 1
    drop = jax.tree.unflatten(treedef, [int(n) for n in sizes - kept])
    scores = criteria.random(key, params)
    return masks_lib.from_counts(scores, drop, scope="layer")
