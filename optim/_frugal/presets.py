"""BAdam and GaLore, as special cases of FRUGAL."""

from typing import Any

import optax

from optim import subspaces
from optim._frugal.frugal import frugal

__all__ = ["badam", "galore"]


def badam(
    learning_rate: optax.ScalarOrSchedule,
    inner: optax.GradientTransformation = optax.scale_by_adam(),  # noqa: B008
    *,
    density: float | None = None,
    update_gap: int = 200,
    order: str | subspaces.Block = "descending",
    weight_decay: optax.ScalarOrSchedule = 0.0,
    projectable: Any = None,
    seed: int = 0,
    regular: optax.GradientTransformation | None = None,
    stacked: Any = None,
    mask: Any = None,
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
      density: Fraction of the projectable tensors that is active, in [0, 1], rounded, at least one
        if it is positive; 0.25 if ``None``.
      update_gap: Steps between changes.
      order: See :func:`optim.subspaces.block`, whose result it may be.
      weight_decay: Decay times the learning rate.
      projectable: As in :func:`frugal`.
      seed: Of the random order.
      regular: As in :func:`frugal`.
      stacked: As in :func:`frugal`.
      mask: As in :func:`frugal`.

    Returns:
      The optimizer; its state is that of :func:`frugal`.

    Raises:
      ValueError: As :func:`frugal`.

    Warns:
      UserWarning: As :func:`frugal`.

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
        subspace=order if isinstance(order, subspaces.Block) else subspaces.block(order),
        state_free="none",
        weight_decay=weight_decay,
        projectable=projectable,
        seed=seed,
        regular=regular,
        stacked=stacked,
        mask=mask,
    )


def galore(
    learning_rate: optax.ScalarOrSchedule,
    inner: optax.GradientTransformation = optax.scale_by_adam(),  # noqa: B008
    *,
    density: float | None = None,
    update_gap: int = 200,
    side: str = "std",
    projectable_scale: float = 0.25,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    projectable: Any = None,
    regular: optax.GradientTransformation | None = None,
    stacked: Any = None,
    weight_dimension_numbers: Any = None,
    mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""GaLore: ``inner`` on the leading singular directions of the gradient, nothing on the rest.

    .. math::
      D_t = U_r^\top G_t \ \text{or}\ G_t V_r, \qquad
      X_{t+1} = X_t - \eta_t\left(s\, P^\top \mathrm{inner}(D_t) + \lambda X_t\right)

    It is :func:`frugal` with ``subspace=svd(side)``, ``state_free="none"``, ``reset=False``: the
    baseline of FRUGAL's authors, who train with learning rate 0.01. GaLore's own code gives a rank
    for all layers instead of a density.

    Args:
      learning_rate: Step size, or a schedule.
      inner: State-full direction in the subspace.
      density: Rank relative to the side that is reduced, in [0, 1], rounded, at least 1 if it is
        positive; 0.25 if ``None``.
      update_gap: Steps between singular value decompositions.
      side: See :func:`optim.subspaces.svd`.
      projectable_scale: Factor on the update of the projected tensors.
      weight_decay: Decay times the learning rate.
      projectable: As in :func:`frugal`.
      regular: As in :func:`frugal`.
      stacked: As in :func:`frugal`.
      weight_dimension_numbers: As in :func:`frugal`: how a convolution or an attention kernel is a
        matrix.
      mask: As in :func:`frugal`.

    Returns:
      The optimizer; its state is that of :func:`frugal`.

    Raises:
      ValueError: As :func:`frugal`.

    Warns:
      UserWarning: As :func:`frugal`.

    Example:
      >>> import jax.numpy as jnp, optim
      >>> tx = optim.galore(0.01, density=0.5)
      >>> tx.init({"w": jnp.ones((6, 4))})[0].inner.mu["w"].shape
      (6, 2)

    References:
      Zhao et al., `GaLore <https://arxiv.org/abs/2403.03507>`_, 2024
    """
    return frugal(
        learning_rate,
        inner,
        density=density,
        update_gap=update_gap,
        subspace=subspaces.svd(side),
        state_free="none",
        projectable_scale=projectable_scale,
        weight_decay=weight_decay,
        projectable=projectable,
        reset=False,
        regular=regular,
        stacked=stacked,
        weight_dimension_numbers=weight_dimension_numbers,
        mask=mask,
    )
