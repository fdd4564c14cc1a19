r"""The papers' schedules, as named defaults.

Every schedule is a pure function of the iteration ``k = 0, 1, ...``. The exponents are the
papers'; the constants are ours, since theorems leave them to the problem's smoothness.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optim import _checks

__all__ = [
    "adaptive_step",
    "f2sa_schedules",
    "f3sa_schedules",
    "lv_hba_schedule",
    "lv_hba_steps",
    "penalty_schedules",
    "power",
]

_NOISE = ("none", "upper", "both")
_Schedule = Callable[[Any], Any]


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


def adaptive_step(rate: float = 0.1, decay: float = 100.0) -> optax.GradientTransformation:
    r"""Returns Adam with the rate :math:`r\,(1 + k/d)^{-1/2}`: the solvers' default upper step.

    Theorems leave the constant of the upper step to the curvature of the hyper-objective, which
    nobody knows beforehand; a step of 0.1 is a hundred times too short for most penalties of a
    regression and too long for some quadratics. Adam's steps have the size of the rate whatever the
    gradients' is. It is a choice of this implementation: a number or a schedule for ``upper_step``
    gives the papers' methods.

    Args:
      rate: :math:`r > 0`, about the first moves of each entry of x.
      decay: :math:`d > 0`, the number of iterations after which the rate begins to fall.

    Returns:
      An optax transform.

    Raises:
      ValueError: On an argument that is not positive.

    Example:
      >>> import bilevel
      >>> solver = bilevel.implicit(upper_step=bilevel.adaptive_step(0.01))
    """
    _checks.number("rate", rate, 0, open_low=True)
    _checks.number("decay", decay, 0, open_low=True)
    return optax.adam(lambda k: rate * (1 + jnp.asarray(k, jnp.result_type(float)) / decay) ** -0.5)


def slow_step() -> optax.GradientTransformation:
    """Returns the default upper step of the single loops, whose lower variables lag behind x."""
    return adaptive_step(0.004, 1000.0)


def _first(value: float, exponent: float, offset: float) -> Callable[[Any], Any]:
    """Returns the power schedule that starts at ``value``."""
    return power(value * offset**-exponent, exponent, offset)


def _exponents(table: dict[str, tuple[float, float]], noise: str) -> tuple[float, float]:
    _checks.choice("noise", noise, _NOISE)
    return table[noise]


def f2sa_schedules(
    noise: str = "none",
    alpha0: float | None = None,
    gamma0: float | None = None,
    offset: float | None = None,
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
      alpha0: Scale of the step in ``y``; ``None`` for a first step of 0.014 (0.003 with noise).
      gamma0: Scale of the step in ``z``, which must stay below the inverse smoothness of the lower
        level; ``None`` for a first step of 0.1.
      offset: :math:`k_0`; ``None`` for 10 (1000 with noise).

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
    alpha, gamma, _ = _steps(noise, a, c, alpha0, gamma0, offset)
    return alpha, gamma


def _steps(noise, a, c, alpha0, gamma0, offset, lower=0.1):
    offset = (10.0 if noise == "none" else 1000.0) if offset is None else offset
    first = 0.014 if noise == "none" else 0.003
    alpha = _first(first, -a, offset) if alpha0 is None else power(alpha0, -a, offset)
    gamma = _first(lower, -c, offset) if gamma0 is None else power(gamma0, -c, offset)
    return alpha, gamma, offset


def f3sa_schedules(
    noise: str = "none",
    alpha0: float | None = None,
    gamma0: float | None = None,
    eta0: float | None = None,
    offset: float | None = None,
    authors: bool = False,
) -> tuple[_Schedule, _Schedule, _Schedule, _Schedule]:
    r"""Returns F3SA's :math:`\alpha_k`, :math:`\gamma_k`, :math:`\eta_k` and :math:`\lambda_k`.

    .. math::
      \eta_k = \min(1, \eta_0 (k + k_0)^{-2c}), \quad \lambda_k = \gamma_k / \alpha_k, \quad
      (a, c) = (\tfrac13, 0),\ (\tfrac12, \tfrac14),\ (\tfrac35, \tfrac25)

    for gradients without noise, with noise in the upper level, in both; steps as in
    :func:`f2sa_schedules`.

    The paper's multiplier is half of this one. Of y's step :math:`\alpha_k \lambda_k` is what
    follows the lower level, and with one step an iteration y then lags behind x twice as far as z
    does; the step of x multiplies the difference by :math:`\lambda_k`. With
    :math:`\gamma_k / \alpha_k` both lag alike and it cancels: on a logistic regression .009 of the
    gap is left instead of .16. (F2SA, whose inner loops catch up, keeps the paper's.)

    Args:
      noise: ``"none"``, ``"upper"`` or ``"both"``.
      alpha0: Scale of the step in ``y``; ``None`` for a first step of 0.014 (0.003 with noise).
      gamma0: Scale of the step in ``z``; ``None`` for a first step of 0.1 (0.15 with noise).
      eta0: Scale of the momentum's weight on a new gradient; ``None`` for a first weight of 1.
      offset: :math:`k_0`; ``None`` for 10 (1000 with noise).
      authors: True for the paper's :math:`\lambda_k = \gamma_k / (2 \alpha_k)`.

    Returns:
      ``(alpha, gamma, eta, lam)``, the first arguments of :func:`bilevel.f3sa`.

    Raises:
      ValueError: On another ``noise``, or a scale or offset that is not positive.

    Example:
      >>> import bilevel
      >>> alpha, gamma, eta, lam = bilevel.f3sa_schedules("both")
      >>> round(float(eta(0)), 4), round(float(lam(0)), 2)
      (1.0, 50.0)
      >>> solver = bilevel.f3sa(alpha, gamma, eta, lam)

    References:
      Kwon, Kwon, Wright, Nowak, `A Fully First-Order Method for Stochastic Bilevel Optimization
      <https://arxiv.org/abs/2301.10945>`_, 2023
    """
    a, c = _exponents(
        {"none": (1 / 3, 0.0), "upper": (1 / 2, 1 / 4), "both": (3 / 5, 2 / 5)}, noise
    )
    lower = 0.1 if noise == "none" else 0.15  # With noise it falls: to about a half in 5000 steps.
    alpha, gamma, offset = _steps(noise, a, c, alpha0, gamma0, offset, lower)
    eta = _first(1.0, -2 * c, offset) if eta0 is None else power(eta0, -2 * c, offset)
    _checks.flag("authors", authors)
    share = 0.5 if authors else 1.0
    lam = lambda k: share * gamma(k) / alpha(k)  # noqa: E731
    return alpha, gamma, lambda k: jnp.minimum(1.0, eta(k)), lam


def penalty_schedules(
    noise: str = "none",
    alpha0: float | None = None,
    beta0: float | None = None,
    gamma0: float | None = None,
    sigma0: float | None = None,
    eta0: float | None = None,
    offset: float = 1000.0,
) -> dict[str, Any]:
    r"""Returns step sizes of the penalty method with the paper's rates, as keyword arguments.

    .. math::
      \sigma_k = \sigma_0 (k + 1)^{-1/3}, \quad \alpha, \beta, \gamma \text{ constant}

    for gradients without noise (Algorithm 1: :math:`\epsilon^{-3}` gradients), and

    .. math::
      \sigma_k = \sigma_0 (k+1)^{-1/5}, \quad
      \alpha_k, \beta_k, \gamma_k \propto (k + k_0)^{-2/5}, \quad
      \eta_k = \min(1, \eta_0 (k + k_0)^{-4/5})

    for noise in both levels (Algorithm 2: :math:`\epsilon^{-5}`).

    Args:
      noise: ``"none"`` or ``"both"``.
      alpha0: Scale of the step in ``x``; ``None`` for :func:`adaptive_step` (with noise, for the
        single loop, ``adaptive_step(0.004, 1000)``), ``prox=10`` and, without noise, five inner
        steps, which suit hyperparameters.
      beta0: Scale of the averaging weight, cut to 1; ``None`` for a first weight of 0.8.
      gamma0: Scale of the inner step; ``None`` for a first step of 0.1 (0.15 with noise).
      sigma0: :math:`\sigma_0`, the first weight of the upper function; ``None`` for 0.5 without
        noise and 0.1 with noise, or 1 where ``alpha0`` is given.
      eta0: Scale of the momentum's weight on a new gradient; ``None`` for a first weight of 1.
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
    _checks.choice("noise", noise, ("none", "both"))
    if sigma0 is None:
        sigma0 = 1.0 if alpha0 is not None else (0.5 if noise == "none" else 0.1)
    if noise == "none":
        beta0 = 0.8 if beta0 is None else beta0
        steps = {
            "upper_step": adaptive_step() if alpha0 is None else alpha0,
            "averaging": (jnp.minimum if isinstance(beta0, jax.core.Tracer) else min)(1.0, beta0),
            "lower_step": 0.1 if gamma0 is None else gamma0,
            "upper_weight": power(sigma0, -1 / 3),
        }
        return steps | ({"prox": 10.0, "inner_steps": 5} if alpha0 is None else {})
    p, q = -2 / 5, -4 / 5
    beta = _first(0.8, p, offset) if beta0 is None else power(beta0, p, offset)
    eta = _first(1.0, q, offset) if eta0 is None else power(eta0, q, offset)
    steps = {
        "upper_step": slow_step() if alpha0 is None else power(alpha0, p, offset),
        "averaging": lambda k: jnp.minimum(1.0, beta(k)),
        "lower_step": _first(0.15, p, offset) if gamma0 is None else power(gamma0, p, offset),
        "upper_weight": power(sigma0, -1 / 5),
        "momentum": lambda k: jnp.minimum(1.0, eta(k)),
    }
    return steps | ({"prox": 10.0} if alpha0 is None else {})


def lv_hba_steps() -> dict[str, Any]:
    r"""Returns steps of LV-HBA that suit hyperparameters, as keyword arguments.

    :func:`adaptive_step` of 0.03 for x and a step of 0.1 for y, theta and the multipliers,
    :math:`\gamma_1 = 10` and :math:`c_k = 10 (k+1)^{0.3}`. Steps that differ between x and y are a
    choice of this implementation, and exact where the set C is a product; a set that couples them
    wants one step for the pair.

    Returns:
      A dict of arguments for :func:`bilevel.lv_hba`.

    Example:
      >>> import bilevel
      >>> solver = bilevel.lv_hba(**bilevel.lv_hba_steps())
    """
    both: dict[Any, optax.GradientTransformation] = {
        "x": adaptive_step(0.03),
        "y": optax.sgd(0.1),
    }
    return {
        "upper_step": optax.partition(both, ("x", "y")),
        "multiplier_step": 0.1,
        "lower_step": 0.1,
        "prox": 10.0,
        "penalty": power(10.0, 0.3),
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
      >>> solver = bilevel.lv_hba(0.02, 0.1, 0.1, penalty=bilevel.lv_hba_schedule(1.0, 0.25))

    References:
      Yao, Yu, Zeng, Zhang, `Constrained Bi-Level Optimization: Proximal Lagrangian Value Function
      Approach and Hessian-free Algorithm <https://arxiv.org/abs/2401.16164>`_, 2024
    """
    _checks.number("p", p, 0, 0.5, open_low=True, open_high=True)
    return power(c0, p)
