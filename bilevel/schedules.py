r"""The papers' schedules, as named defaults.

Every schedule is a pure function of the iteration ``k = 0, 1, ...``. The exponents are the
papers'; the constants are ours, since theorems leave them to the problem's smoothness.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optim import _checks

__all__ = ["f2sa_schedules", "f3sa_schedules", "lv_hba_schedule", "penalty_schedules", "power"]

_NOISE = ("none", "upper", "both")


def power(scale: float, exponent: float, offset: float = 1.0) -> Callable[[Any], Any]:
    r"""Returns :math:`k \mapsto s\,(k + k_0)^{p}`.

    Args:
      scale: Factor :math:`s > 0`.
      exponent: Exponent :math:`p`; negative for step sizes that shrink.
      offset: :math:`k_0 > 0`, so that ``k = 0`` is defined.

    Returns:
      A schedule: iteration to value, in the default float type.

    Raises:
      ValueError: On a scale or an offset that is not positive.

    Example:
      >>> import bilevel
      >>> float(bilevel.power(2.0, -0.5)(3))
      1.0
    """
    _checks.number("scale", scale, 0, open_low=True)
    _checks.number("offset", offset, 0, open_low=True)
    return lambda k: scale * (jnp.asarray(k, jnp.result_type(float)) + offset) ** exponent


def _exponents(table: dict[str, tuple[float, float]], noise: str) -> tuple[float, float]:
    _checks.choice("noise", noise, _NOISE)
    return table[noise]


def f2sa_schedules(
    noise: str = "none", alpha0: float = 0.1, gamma0: float = 0.2, offset: float = 10.0
) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    r"""Returns F2SA's :math:`\alpha_k = \alpha_0 (k + k_0)^{-a}` and :math:`\gamma_k`.

    .. math::
      \gamma_k = \gamma_0 (k + k_0)^{-c}, \quad
      (a, c) = (\tfrac13, 0),\ (\tfrac35, \tfrac25),\ (\tfrac57, \tfrac47)

    for gradients without noise, with noise in the upper level, in both. With
    :math:`\lambda_k = \gamma_k / (2 \alpha_k)` the iterations to
    :math:`\|\nabla\|^2 \le \epsilon` are :math:`\epsilon^{-3/2}`, :math:`\epsilon^{-5/2}`,
    :math:`\epsilon^{-7/2}`.

    Args:
      noise: ``"none"``, ``"upper"`` or ``"both"``.
      alpha0: Scale of the step in ``x`` and ``y``.
      gamma0: Scale of the step in ``z``, below the inverse smoothness of the lower level.
      offset: :math:`k_0`.

    Returns:
      ``(alpha, gamma)``.

    Raises:
      ValueError: On another ``noise``, or a scale or offset that is not positive.

    Example:
      >>> import bilevel
      >>> alpha, gamma = bilevel.f2sa_schedules("both")
      >>> solver = bilevel.f2sa(alpha, gamma)

    References:
      Kwon, Kwon, Wright, Nowak, `A Fully First-Order Method for Stochastic Bilevel Optimization
      <https://arxiv.org/abs/2301.10945>`_, 2023
    """
    a, c = _exponents(
        {"none": (1 / 3, 0.0), "upper": (3 / 5, 2 / 5), "both": (5 / 7, 4 / 7)}, noise
    )
    return power(alpha0, -a, offset), power(gamma0, -c, offset)


def f3sa_schedules(
    noise: str = "none",
    alpha0: float = 0.1,
    gamma0: float = 0.2,
    eta0: float = 4.0,
    offset: float = 10.0,
) -> tuple[Callable[[Any], Any], Callable[[Any], Any], Callable[[Any], Any]]:
    r"""Returns F3SA's :math:`\alpha_k`, :math:`\gamma_k` and :math:`\eta_k`.

    .. math::
      \eta_k = \min(1, \eta_0 (k + k_0)^{-2c}), \quad
      (a, c) = (\tfrac13, 0),\ (\tfrac12, \tfrac14),\ (\tfrac35, \tfrac25)

    for gradients without noise, with noise in the upper level, in both; steps as in
    :func:`f2sa_schedules`.

    Args:
      noise: ``"none"``, ``"upper"`` or ``"both"``.
      alpha0: Scale of the step in ``x`` and ``y``.
      gamma0: Scale of the step in ``z``.
      eta0: Scale of the momentum's weight on a new gradient.
      offset: :math:`k_0`.

    Returns:
      ``(alpha, gamma, eta)``.

    Raises:
      ValueError: On another ``noise``, or a scale or offset that is not positive.

    Example:
      >>> import bilevel
      >>> alpha, gamma, eta = bilevel.f3sa_schedules("both")
      >>> float(eta(0)), float(gamma(0)) > float(gamma(1))
      (0.633..., True)

    References:
      Kwon, Kwon, Wright, Nowak, `A Fully First-Order Method for Stochastic Bilevel Optimization
      <https://arxiv.org/abs/2301.10945>`_, 2023
    """
    a, c = _exponents(
        {"none": (1 / 3, 0.0), "upper": (1 / 2, 1 / 4), "both": (3 / 5, 2 / 5)}, noise
    )
    eta = power(eta0, -2 * c, offset)
    return (
        power(alpha0, -a, offset),
        power(gamma0, -c, offset),
        lambda k: jnp.minimum(1.0, eta(k)),
    )


def penalty_schedules(
    noise: str = "none",
    alpha0: float = 0.1,
    beta0: float = 0.8,
    gamma0: float = 0.1,
    eta0: float = 4.0,
    offset: float = 10.0,
) -> dict[str, Any]:
    r"""Returns step sizes of the penalty method with the paper's rates, as keyword arguments.

    .. math::
      \sigma_k = (k + 1)^{-1/3}, \quad \alpha, \beta, \gamma \text{ constant}

    for gradients without noise (Algorithm 1: :math:`\epsilon^{-3}` gradients), and

    .. math::
      \sigma_k = (k+1)^{-1/5}, \quad \alpha_k, \beta_k, \gamma_k \propto (k + k_0)^{-2/5}, \quad
      \eta_k = \min(1, \eta_0 (k + k_0)^{-4/5})

    for noise in both levels (Algorithm 2: :math:`\epsilon^{-5}`).

    Args:
      noise: ``"none"`` or ``"both"``.
      alpha0: Scale of the step in ``x``.
      beta0: Scale of the averaging weight; weights above 1 are cut to 1.
      gamma0: Scale of the inner step.
      eta0: Scale of the momentum's weight on a new gradient.
      offset: :math:`k_0`.

    Returns:
      A dict of arguments for :func:`bilevel.penalty`.

    Raises:
      ValueError: On another ``noise``, or a scale or offset that is not positive.

    Example:
      >>> import bilevel
      >>> solver = bilevel.penalty(**bilevel.penalty_schedules("both", beta0=2.0))

    References:
      Kwon, Kwon, Wright, Nowak, `On Penalty Methods for Nonconvex Bilevel Optimization and
      First-Order Stochastic Approximation <https://arxiv.org/abs/2309.01753>`_, 2024
    """
    if noise == "none":
        return {
            "alpha": alpha0,
            "beta": (jnp.minimum if isinstance(beta0, jax.core.Tracer) else min)(1.0, beta0),
            "gamma": gamma0,
            "sigma": power(1.0, -1 / 3),
        }
    _checks.choice("noise", noise, ["none", "both"])
    beta, eta = power(beta0, -2 / 5, offset), power(eta0, -4 / 5, offset)
    return {
        "alpha": power(alpha0, -2 / 5, offset),
        "beta": lambda k: jnp.minimum(1.0, beta(k)),
        "gamma": power(gamma0, -2 / 5, offset),
        "sigma": power(1.0, -1 / 5),
        "eta": lambda k: jnp.minimum(1.0, eta(k)),
    }


def lv_hba_schedule(c0: float = 1.0, p: float = 0.3) -> Callable[[Any], Any]:
    r"""Returns LV-HBA's penalty parameter :math:`c_k = c_0 (k + 1)^p`.

    The stationarity measure falls as :math:`K^{-(1 - 2p)/2}` and :math:`f - v` as
    :math:`K^{-p}`; p = 1/4 balances the two. The authors' SVM scripts use p = 1/2
    (``power(c0, 0.5)``), outside of the theorem.

    Args:
      c0: :math:`c_0 > 0`.
      p: Exponent in (0, 1/2).

    Returns:
      A schedule: iteration to :math:`c_k`.

    Raises:
      ValueError: On a constant or an exponent out of range.

    Example:
      >>> import bilevel
      >>> solver = bilevel.lv_hba(0.02, 0.1, 0.1, c=bilevel.lv_hba_schedule(1.0, 0.25))

    References:
      Yao, Yu, Zeng, Zhang, `Constrained Bi-Level Optimization: Proximal Lagrangian Value Function
      Approach and Hessian-free Algorithm <https://arxiv.org/abs/2401.16164>`_, 2024
    """
    _checks.number("p", p, 0, 0.5, open_low=True, open_high=True)
    return power(c0, p)
