"""Estimates of a random part of the entries."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optim import _checks
from optim.zeroth_order._estimator import Estimator
from optim.zeroth_order._rge import or_rge

__all__ = ["random_mask", "sparse"]


def sparse(
    mask_fn: Callable[[jax.Array, Any], Any],
    period: int = 1,
    estimator: Estimator | None = None,
    *,
    seed: int = 0,
    mask_update: bool = True,
) -> Estimator:
    r"""Perturbs and moves the entries of a mask only, which is drawn anew now and then.

    .. math::
      \hat g = m \odot \hat g\bigl(u \mapsto f(m \odot u + (1 - m) \odot \theta)\bigr), \qquad
      m = \mathrm{mask}\bigl(\lfloor t / \mathrm{period} \rfloor\bigr)

    Args:
      mask_fn: ``mask_fn(key, params) -> mask``, a tree of bools, such as :func:`random_mask`.
      period: Steps that a mask is kept, at least 1.
      estimator: Inside the mask; default ``rge()``. It makes all of its evaluations: for a mask
        that saves some, see ``cge(mask=...)``.
      seed: Of the masks, which do not depend on the key of an estimate.
      mask_update: With more than one direction the authors' program masks the perturbation and
        not the estimate. ``False`` repeats that.

    Returns:
      The estimator.

    Raises:
      ValueError: If an argument is out of its range.

    Example:
      >>> import jax, jax.numpy as jnp, optim
      >>> zo = optim.zeroth_order
      >>> estimator = zo.sparse(lambda key, p: jnp.array([True, False]), 5, zo.cge(central=True))
      >>> vg = zo.value_and_grad(lambda w, batch: w @ w, estimator)
      >>> vg(jnp.ones(2), None, jax.random.key(0), step=7)[1].round(3)
      Array([2., 0.], dtype=float32)
    """
    inner = or_rge(estimator)
    _checks.count("period", period)
    _checks.flag("mask_update", mask_update)
    if not callable(mask_fn):
        raise ValueError(f"mask_fn must be a function (key, params) -> mask, got {mask_fn!r}")

    def estimate(f, params, key, step):
        mask = mask_fn(jax.random.fold_in(jax.random.key(seed), step // period), params)

        def inside(u):
            return f(jax.tree.map(jnp.where, mask, u, params))

        value, gradient = inner.estimate(inside, params, key, step)
        if mask_update:
            gradient = jax.tree.map(lambda m, g: jnp.where(m, g, 0), mask, gradient)
        return value, gradient

    return Estimator(estimate, inner.evaluations)


def random_mask(ratio: float, density: str = "exact") -> Callable[[jax.Array, Any], Any]:
    r"""Returns the ``mask_fn`` of :func:`sparse` whose entries are ``False`` with chance ``ratio``.

    Args:
      ratio: Share of the entries that stay as they are, in [0, 1).
      density: ``"exact"``, or ``"normal_cdf"``: the authors' program compares normal numbers with
        ``ratio`` and so leaves :math:`\Phi(\mathrm{ratio})` of the entries: .69 for .5.

    Raises:
      ValueError: If an argument is out of its range.

    Example:
      >>> import jax, jax.numpy as jnp, optim
      >>> mask = optim.zeroth_order.random_mask(0.75)(jax.random.key(0), jnp.zeros(10_000))
      >>> mask.mean().round(2)
      Array(0.25, dtype=float32)
    """
    _checks.number("ratio", ratio, 0, 1, open_high=True)
    _checks.choice("density", density, ("exact", "normal_cdf"))

    def mask_fn(key, params):
        leaves, treedef = jax.tree.flatten(params)
        masks = []
        for i, leaf in enumerate(leaves):
            draw = jax.random.uniform if density == "exact" else jax.random.normal
            masks.append(draw(jax.random.fold_in(key, i), jnp.shape(leaf)) >= ratio)
        return treedef.unflatten(masks)

    return mask_fn
