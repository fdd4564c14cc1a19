"""GraNet: gradual magnitude pruning whose masks also regrow where the gradient is large."""

from typing import Any

import jax
import jax.numpy as jnp

from bilevel.pruning import masks as masks_lib
from bilevel.pruning._select import drop_smallest
from bilevel.pruning._sparse_training import magnitude_masks
from optim import _checks

__all__ = ["granet"]


def granet(masks: Any, params: Any, grads: Any, density: float, fraction: Any) -> Any:
    r"""One change of GraNet's masks: prune globally, then drop and regrow in each layer.

    .. math::
      m &\leftarrow m \odot [\,|\theta| > \text{the } \lfloor dn \rfloor\text{-th largest}
          \text{ of } |m \odot \theta|\,] \\
      k_l &= \lceil p \textstyle\sum m_l \rceil \text{ smallest } |\theta_l| \text{ leave, the }
          k_l \text{ largest } |\nabla_l| \text{ among the zeros enter}

    The first line keeps one fewer than :math:`dn`, as the authors' strict inequality does. Grown
    weights start at zero: pass the new masks to an optimizer that masks its moments
    (:func:`bilevel.sparse`). What was just dropped may return. In their schedule :math:`d` is
    cubic (:func:`bilevel.density.cubic`) and :math:`p` decays from 0.5 to 0.005 by a cosine.

    Args:
      masks: Masks in force, ``None`` where a leaf is not pruned.
      params: Parameters, zero where pruned.
      grads: Their gradients, those of pruned weights included.
      density: Density :math:`d` after the step, in (0, 1].
      fraction: Share :math:`p` of each layer that is exchanged, in [0, 1]; may be traced.

    Raises:
      ValueError: On a density outside its range.

    Example:
      >>> import jax.numpy as jnp, bilevel
      >>> w, g = jnp.array([[4.0, 3.0, 2.0, 1.0]]), jnp.array([[0.0, 0.0, 0.0, 9.0]])
      >>> bilevel.granet(jnp.ones((1, 4), bool), w, g, density=0.75, fraction=0.5)
      Array([[ True, False, False,  True]], dtype=bool)

    References:
      Liu et al., Sparse Training via Boosting Pruning Plasticity with Neuroregeneration, NeurIPS
      2021.
    """
    _checks.number("density", density, 0, 1, open_low=True)
    n = sum(m.size for m in jax.tree.leaves(masks))
    masks = magnitude_masks(masks, params, n - max(int(density * n) - 1, 0), "global")

    def exchange(m, w, g):
        if m is None:
            return None
        k = jnp.ceil(fraction * m.sum()).astype(jnp.int32)
        (left,) = drop_smallest([jnp.where(m, jnp.abs(w), jnp.inf)], k, absolute=False)
        left &= m
        (grown,) = drop_smallest([jnp.where(left, -1, jnp.abs(g))], m.size - k, absolute=False)
        return left | grown

    return masks_lib.map_leaves(exchange, masks, params, grads)
