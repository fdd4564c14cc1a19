"""The proximal penalty method: Algorithm 1 (double loop) and Algorithm 2 (single loop)."""

from bilevel._common import Rate, StepSize
from bilevel._solver._penalty_double import double_loop
from bilevel._solver._penalty_single import single_loop
from bilevel.problem import Solver
from bilevel.schedules import penalty_schedules
from optim import _checks

__all__ = ["penalty"]


def penalty(
    upper_step: StepSize | None = None,
    averaging: Rate | None = None,
    lower_step: Rate | None = None,
    upper_weight: Rate | None = None,
    prox: float | None = None,
    inner_steps: int | None = None,
    momentum: Rate | None = None,
    warm_start: bool = True,
    axis_name: str | None = None,
) -> Solver:
    r"""Proximal penalty method after Kwon, Kwon, Wright and Nowak.

    With :math:`f` the upper and :math:`g` the lower function, as in the paper, and
    :math:`h_\sigma = \sigma f + g`, it descends the penalty hyper-objective
    :math:`\psi_\sigma(x) = (\min_Y h_\sigma(x, \cdot) - \min_Y g(x, \cdot)) / \sigma`, which is
    within :math:`O(\sigma)` of the hyper-objective under the proximal error bound.

    .. math::
      \begin{aligned}
        u &\leftarrow P_Y\big(u - \gamma_k (\sigma_k \nabla_y f(x_k, u) + \nabla_y g(x_k, u)
          + (u - y_k) / \rho)\big), \quad
        v \leftarrow P_Y\big(v - \gamma_k (\nabla_y g(x_k, v) + (v - z_k) / \rho)\big)
          \quad (T \text{ times}) \\
        y_{k+1} &= (1 - \beta_k) y_k + \beta_k u, \quad z_{k+1} = (1 - \beta_k) z_k + \beta_k v \\
        x_{k+1} &= P_X\big(x_k - \alpha_k (\sigma_k \nabla_x f(x_k, u)
          + \nabla_x g(x_k, u) - \nabla_x g(x_k, v))\big)
      \end{aligned}

    An iteration of Algorithm 1, without ``momentum``, takes 3T + 3 gradients; in its stochastic
    form the batches of the x step are large. Algorithm 2, with ``momentum``, has T = 1 and replaces
    each of the six gradients by the estimate with momentum of :func:`bilevel.f3sa`, twelve
    gradients in all. :func:`bilevel.penalty_schedules` has step sizes with the paper's rates.

    For ``problem.nonsmooth`` the prox of step :math:`\gamma_k` stands in place of :math:`P_Y`, and
    its term belongs to :math:`g` in the step of x.

    From the paper's preprint (arXiv 2309.01753): :math:`h_\sigma` and :math:`\psi_\sigma`, the
    proximal error bound and what it gives, the form of both algorithms (a double loop with large
    batches; a single loop with momentum), proximal steps towards centers that are averaged, and
    the orders of the numbers of gradients. Choices of this implementation: every constant, the
    exponents of the schedules (derived from those orders), and ``warm_start``, where the inner
    loop begins. The authors published no code; the tests replay an independent implementation of
    the same equations.

    Args:
      upper_step: Step size :math:`\alpha_k` of ``x``: a number, a schedule or an optax transform;
        ``None``, here and below, for what :func:`bilevel.penalty_schedules` has: that of
        ``"none"``, or of ``"both"`` where ``momentum`` is given.
      averaging: Weight :math:`\beta_k` in (0, 1] of the averages, a number or a schedule.
      lower_step: Inner step size :math:`\gamma_k`, at most :math:`1 / (L + 1/\rho)` where L is the
        lower level's largest curvature: a number or a schedule.
      upper_weight: :math:`\sigma_k > 0`, a number or a schedule.
      prox: Proximal parameter :math:`\rho`, below the inverse of the lower level's weak convexity.
      inner_steps: T >= 1; 1 in Algorithm 2.
      momentum: :math:`\eta_k \in (0, 1]` of Algorithm 2, the weight of the newest gradient: a
        number or a schedule; 1 is no momentum.
      warm_start: Whether the inner loop starts at the last prox points or at
        :math:`(y_k, z_k)`. Algorithm 2 always does the former.
      axis_name: Mapped axis over which gradients and metrics are averaged.

    Returns:
      A :class:`bilevel.Solver`; ``init(problem, x0, y0, z0=None)`` starts at ``z = y0`` by default.
      The batch is ``(upper_batch, lower_batch)`` or :class:`bilevel.Samples` (without the leading
      axis for Algorithm 2). Metrics, where the step of ``x`` is taken: ``upper``
      :math:`f(x, u)`, ``lower`` :math:`g(x, u)`, ``lower_gap`` :math:`g(x, u) - g(x, v)`, ``gap``
      :math:`h_\sigma(x, u) - g(x, v)`, ``multiplier`` :math:`1/\sigma_k`, ``prox_residual``
      :math:`\|(u - y_k, v - z_k)\| / \rho` and ``residual`` :math:`\|x - P_X(x - d)\|` of the
      hypergradient :math:`d \approx \nabla \psi_\sigma`.

    Raises:
      ValueError: On a hyperparameter out of range; at ``init`` on a problem with a constraint.

    Example:
      >>> import bilevel, jax, jax.numpy as jnp
      >>> problem = bilevel.Problem(
      ...     upper=lambda x, y, batch: jnp.sum((y - 1.0) ** 2) + 0.5 * jnp.sum(x**2),
      ...     lower=lambda x, y, batch: jnp.sum((y - x) ** 2),
      ...     project_x=bilevel.projections.box(0, 0.5),
      ... )
      >>> solver = bilevel.penalty(0.3, 0.8, 0.2, upper_weight=0.1, prox=1.0)
      >>> state, step = solver.init(problem, jnp.zeros(1), jnp.zeros(1)), jax.jit(solver.step)
      >>> for _ in range(100):
      ...     state, metrics = step(state, None)
      >>> state.x
      Array([0.5], dtype=float32)

    References:
      Kwon, Kwon, Wright, Nowak, `On Penalty Methods for Nonconvex Bilevel Optimization and
      First-Order Stochastic Approximation <https://arxiv.org/abs/2309.01753>`_, 2024
    """
    once = momentum is None
    shipped = penalty_schedules("none" if once else "both")
    upper_step = shipped["upper_step"] if upper_step is None else upper_step
    averaging = shipped["averaging"] if averaging is None else averaging
    lower_step = shipped["lower_step"] if lower_step is None else lower_step
    upper_weight = shipped["upper_weight"] if upper_weight is None else upper_weight
    prox = shipped["prox"] if prox is None else prox
    inner_steps = shipped.get("inner_steps", 1) if inner_steps is None else inner_steps
    for name, value in (("lower_step", lower_step), ("upper_weight", upper_weight)):
        _checks.number(name, value, 0, open_low=True, schedule=True)
    for name, value in (("averaging", averaging), ("momentum", 1.0 if once else momentum)):
        _checks.number(name, value, 0, 1, open_low=True, schedule=True)
    _checks.number("prox", prox, 0, open_low=True)
    _checks.count("inner_steps", inner_steps)
    _checks.flag("warm_start", warm_start)
    if momentum is None:
        return double_loop(
            upper_step, averaging, lower_step, upper_weight, prox, inner_steps, warm_start,
            axis_name,
        )  # fmt: skip
    if inner_steps != 1:
        raise ValueError(f"inner_steps must be 1 with momentum (Algorithm 2), got {inner_steps}")
    if not warm_start:
        raise ValueError("warm_start must be True with momentum (Algorithm 2), got False")
    return single_loop(upper_step, averaging, lower_step, upper_weight, prox, momentum, axis_name)
