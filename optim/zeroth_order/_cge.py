"""Coordinate-wise gradient estimation: one difference for each parameter."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optim import _checks
from optim.zeroth_order._estimator import Estimator, check_mu, warn_if_lost

__all__ = ["cge"]


def cge(
    mu: float = 5e-3,
    central: bool = False,
    chunk: int = 1,
    *,
    mask: Any = None,
    max_parameters: int = 100_000,
) -> Estimator:
    r"""Differences along the coordinates :math:`e_i`; no randomness.

    .. math::
      \hat g_i = \frac{f(\theta + \mu e_i) - f(\theta)}{\mu}
      \quad\text{or, central,}\quad \frac{f(\theta + \mu e_i) - f(\theta - \mu e_i)}{2\mu}

    On a quadratic the forward form is off by :math:`\tfrac\mu2 \operatorname{diag} H` and the
    central one is exact.

    Args:
      mu: Length of a perturbation, > 0.
      central: Whether differences are taken to both sides: 2d forward passes instead of d + 1
        (and one more where the loss has auxiliary data).
      chunk: Coordinates evaluated at once by ``vmap``, each with its own copy of its leaf.
      mask: Bools like the parameters, known before tracing: entries that are ``False`` get
        gradient 0 and cost nothing. ``None`` estimates all.
      max_parameters: More coordinates than this are refused.

    Returns:
      The estimator.

    Raises:
      ValueError: If an argument is out of its range; when used, if ``mask`` does not fit the
        parameters, or there are no coordinates or more than ``max_parameters``.

    Example:
      >>> import jax, jax.numpy as jnp, optim
      >>> vg = optim.zeroth_order.value_and_grad(
      ...     lambda w, batch: w @ w, optim.zeroth_order.cge(mu=0.5)
      ... )
      >>> vg(jnp.array([1.0, -2.0]), None, jax.random.key(0))
      (Array(5., dtype=float32), Array([ 2.5, -3.5], dtype=float32))

    References:
      Chen et al., DeepZero: Scaling up Zeroth-Order Optimization for Deep Model Training, 2024,
      https://arxiv.org/abs/2310.02025
    """
    check_mu(mu)
    _checks.flag("central", central)
    _checks.count("chunk", chunk)
    _checks.count("max_parameters", max_parameters)

    def coordinates(params) -> list[np.ndarray]:
        """The flat indices of each leaf that are estimated."""
        shapes = [jnp.shape(p) for p in jax.tree.leaves(params)]
        if mask is None:
            found = [np.arange(np.prod(s, dtype=int)) for s in shapes]
        else:
            masks = jax.tree.structure(params).flatten_up_to(mask)
            if [np.shape(m) for m in masks] != shapes:
                raise ValueError("mask must have the shapes of the parameters")
            found = [np.flatnonzero(np.asarray(m)) for m in masks]
        number = sum(map(len, found))
        if not number:
            raise ValueError("cge has nothing to estimate: mask, or the parameters, has no entry")
        if number > max_parameters:
            raise ValueError(
                f"cge would take {number} forward passes and more for one estimate; if that is "
                f"meant, pass max_parameters={number}"
            )
        return found

    def estimate(f, params, key, step):
        del key, step
        warn_if_lost(mu, params)
        indices = coordinates(params)
        leaves, treedef = jax.tree.flatten(params)
        if central and not jax.tree.leaves(jax.eval_shape(f, params)[1]):
            base = aux = None
        else:
            base, aux = f(params)
        columns, values = [], []
        for k, (leaf, index) in enumerate(zip(leaves, indices, strict=True)):

            def at(i, distance, k=k, leaf=leaf):
                flat = leaf.reshape(-1).at[i].add(distance)
                changed = [*leaves[:k], flat.reshape(leaf.shape), *leaves[k + 1 :]]
                return f(treedef.unflatten(changed))[0]

            def slope(i, at=at):
                plus = at(i, mu)
                if not central:
                    return (plus - base) / mu, plus
                minus = at(i, -mu)
                return (plus - minus) / (2 * mu), (plus + minus) / 2

            column = jnp.zeros(leaf.size, leaf.dtype)
            if len(index):
                slopes, mean = jax.lax.map(
                    slope, jnp.asarray(index), batch_size=chunk if chunk > 1 else None
                )
                column = column.at[index].set(slopes.astype(leaf.dtype))
                values.append(mean)
            columns.append(column.reshape(leaf.shape))
        value = jnp.concatenate(values).mean() if central and values else base
        return (value, aux), treedef.unflatten(columns)

    def evaluations(params):
        number = sum(map(len, coordinates(params)))
        return 2 * number if central else number + 1

    return Estimator(estimate, evaluations)
