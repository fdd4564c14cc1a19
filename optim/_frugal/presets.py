"""BAdam, as a special case of FRUGAL."""

from typing import Any

import optax

from optim import _paths, subspaces
from optim._frugal.frugal import frugal

__all__ = ["badam"]


def badam(
    learning_rate: optax.ScalarOrSchedule,
    inner: optax.GradientTransformation = optax.scale_by_adam(),  # noqa: B008
    *,
    density: float = 0.25,
    update_gap: int = 200,
    order: str = "descending",
    weight_decay: optax.ScalarOrSchedule = 0.0,
    projectable: Any = _paths.is_hidden_matrix,
    seed: int = 0,
    stacked: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""BAdam: Adam on a part of the tensors at a time, the other ones rest.

    .. math::
      X^{(i)}_{t+1} = X^{(i)}_t - \eta_t\left([i\ \text{active}]\,
      \mathrm{inner}(G^{(i)}_t) + \lambda X^{(i)}_t\right)

    It is :func:`frugal` with ``subspace=block(order)`` and ``state_free="none"``, the baseline of
    FRUGAL's authors: embeddings, norms and the output head are trained at every step, decay acts
    on all tensors, and a block is a fraction of the tensors rather than a layer.

    Args:
      learning_rate: Step size, or a schedule.
      inner: State-full direction of the active tensors.
      density: Fraction of the projectable tensors that is active, in [0, 1].
      update_gap: Steps between changes.
      order: See :func:`optim.subspaces.block`.
      weight_decay: Decay times the learning rate.
      projectable: As in :func:`frugal`.
      seed: Of the random order.
      stacked: As in :func:`frugal`.

    Returns:
      The optimizer.

    Example:
      >>> import jax.numpy as jnp, optim
      >>> tx = optim.badam(0.1, density=0.5)
      >>> params = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 2))}
      >>> updates, _ = tx.update(params, tx.init(params), params)
      >>> [bool(jnp.any(u)) for u in updates.values()]
      [False, True]

    References:
      Luo et al., `BAdam <https://arxiv.org/abs/2404.02827>`_, 2024
    """
    return frugal(
        learning_rate,
        inner,
        density=density,
        update_gap=update_gap,
        subspace=subspaces.block(order),
        state_free="none",
        weight_decay=weight_decay,
        projectable=projectable,
        seed=seed,
        stacked=stacked,
    )
