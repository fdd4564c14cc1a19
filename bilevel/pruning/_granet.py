"""GraNet: gradual magnitude pruning whose masks also regrow where the gradient is large."""

from typing import Any

import jax

from bilevel.pruning import masks as masks_lib
from bilevel.pruning._mask_updates import exchange, magnitude_masks
from optim import _checks

__all__ = ["granet"]


def _where_masked(mask: Any, x: Any) -> Any:
    return None if mask is None else x


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
    cubic (:func:`bilevel.density.cubic`) and :math:`p` decays from 0.5 to 0.005 by a cosine:
    ``bilevel.sparse_training(tx, gradual=..., exchange=bilevel.Exchange(...))`` trains so.

    Args:
      masks: Masks in force, ``None`` where a leaf is not pruned.
      params: Parameters, zero where pruned.
      grads: Their gradients, those of pruned weights included.
      density: Density :math:`d` after the step, in (0, 1].
      fraction: Share :math:`p` of each layer that is exchanged, in [0, 1]; may be traced.

    Raises:
      ValueError: On a density outside its range, and on weights or gradients that are NaN.

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
    masks_lib.refuse_nan("params", masks_lib.map_leaves(_where_masked, masks, params))
    masks_lib.refuse_nan("grads", masks_lib.map_leaves(_where_masked, masks, grads))
    n = sum(m.size for m in jax.tree.leaves(masks))
    masks = magnitude_masks(masks, params, n - max(int(density * n) - 1, 0), "global")
    return exchange(masks, params, grads, fraction)
