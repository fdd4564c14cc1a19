"""Lion and Lion-K: sign momentum, and the family of convex functions it belongs to."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from optim import _checks, _trees, _xla_cpu, kappas
from optim.kappas import Kappa

__all__ = ["lion", "lion_k", "scale_by_lion_k"]


def scale_by_lion_k(
    kappa: Kappa = kappas.l1,
    b1: float = 0.9,
    b2: float = 0.99,
    mu_dtype: Any = None,
) -> optax.GradientTransformation:
    r"""Direction of Lion-K: the gradient of a convex function at an interpolated momentum.

    .. math::
      c_t = \beta_1 m_{t-1} + (1-\beta_1) g_t, \qquad u_t = \nabla\mathcal K(c_t), \qquad
      m_t = \beta_2 m_{t-1} + (1-\beta_2) g_t

    Args:
      kappa: Convex function, one of :mod:`optim.kappas`.
      b1: Weight of the momentum in the interpolation, in [0, 1).
      b2: Decay of the momentum, in [0, 1).
      mu_dtype: dtype of the momentum; ``None`` is that of the parameters. Arithmetic is in
        float32 at least.

    Returns:
      The transformation; its state is an ``optax.ScaleByLionState(count, mu)``: 4 bytes per
      float32 parameter.

    Raises:
      ValueError: If an argument is out of its range or a leaf is complex.

    Example:
      >>> import jax.numpy as jnp, optim
      >>> tx = optim.scale_by_lion_k(optim.kappas.huber(0.1))
      >>> params = jnp.array([1.0, -1.0])
      >>> tx.update(jnp.array([0.5, -2.0]), tx.init(params))[0]
      Array([ 0.5, -1. ], dtype=float32)

    References:
      Chen et al., Lion Secretly Solves Constrained Optimization, 2023,
      https://arxiv.org/abs/2310.05898
    """
    if not isinstance(kappa, Kappa):
        raise ValueError(f"kappa must be an optim.kappas.Kappa, got {kappa!r}")
    _trees.check_rate("b1", b1)
    _trees.check_rate("b2", b2)
    _checks.float_dtype("mu_dtype", mu_dtype)

    def init_fn(params):
        mu = _trees.zeros(params, mu_dtype)
        return optax.ScaleByLionState(count=jnp.zeros([], jnp.int32), mu=mu)

    def update_fn(updates, state, params=None):
        del params

        def moments(path, g, mu):
            _trees.check_gradient(path, g, mu)
            g_wide, m = _trees.widen(g, mu)
            beta1, beta2 = (_trees.decay_rate(b, m.dtype) for b in (b1, b2))
            c = beta1 * m + (1 - beta1) * g_wide
            m = beta2 * m + (1 - beta2) * g_wide
            u = c if kappa.joint else kappa.grad(c).astype(g.dtype)
            return u, m.astype(mu.dtype)

        directions, mu = _trees.map_unzip(moments, 2, updates, state.mu)
        if kappa.joint:
            directions = jax.tree.map(
                lambda u, g: u.astype(jnp.result_type(g)), kappa.grad(directions), updates
            )
        return directions, optax.ScaleByLionState(optax.safe_increment(state.count), mu)

    return optax.GradientTransformation(init_fn, update_fn)


def lion_k(
    learning_rate: optax.ScalarOrSchedule,
    kappa: Kappa,
    b1: float = 0.9,
    b2: float = 0.99,
    mu_dtype: Any = None,
    weight_decay: optax.ScalarOrSchedule = 1e-3,
    mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Lion-K: minimizes :math:`f(x) + \tfrac1\lambda\mathcal K^*(\lambda x)`.

    .. math::
      x_t = x_{t-1} - \eta_t\left(\nabla\mathcal K(\beta_1 m_{t-1} + (1-\beta_1) g_t)
      + \lambda x_{t-1}\right), \qquad m_t = \beta_2 m_{t-1} + (1-\beta_2) g_t

    ``kappa.problem`` says which problem that is. Where :math:`\mathcal K^*` is an indicator the
    parameters approach their set by the factor :math:`1-\eta\lambda` per step and stay in it.

    Args:
      learning_rate: Step size :math:`\eta`, or a schedule.
      kappa: Convex function :math:`\mathcal K`, one of :mod:`optim.kappas`.
      b1: Weight of the momentum in the interpolation, in [0, 1).
      b2: Decay of the momentum, in [0, 1).
      mu_dtype: dtype of the momentum; ``None`` is that of the parameters.
      weight_decay: Decay :math:`\lambda` >= 0, or a schedule, times the learning rate.
      mask: Which leaves decay: a tree of bools (a prefix will do), a function of the parameters
        that returns one, or one of (path, leaf), such as :func:`optim.is_hidden_matrix`.

    Returns:
      The optimizer.

    Raises:
      ValueError: If an argument is out of its range or a leaf is complex.

    Example:
      >>> import jax, jax.numpy as jnp, optax, optim
      >>> tx = optim.lion_k(0.1, optim.kappas.l2, weight_decay=0.5)
      >>> optim.kappas.l2.problem
      'min f(x), |x|_2 <= 1/lam'
      >>> params = jnp.zeros(2)
      >>> state = tx.init(params)
      >>> for _ in range(100):
      ...   updates, state = tx.update(params - jnp.array([3.0, -4.0]), state, params)
      ...   params = optax.apply_updates(params, updates)
      >>> params.round(1)  # (3, -4) projected on the ball of radius 2.
      Array([ 1.2, -1.6], dtype=float32)

    References:
      Chen et al., Lion Secretly Solves Constrained Optimization, 2023,
      https://arxiv.org/abs/2310.05898
    """
    _checks.number("learning_rate", learning_rate, schedule=True)
    _checks.number("weight_decay", weight_decay, 0, schedule=True)
    optimizer = optax.chain(
        scale_by_lion_k(kappa, b1, b2, mu_dtype),
        _trees.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )
    return _xla_cpu.write_last(optimizer, position=0, field="mu")


def lion(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.99,
    mu_dtype: Any = None,
    weight_decay: optax.ScalarOrSchedule = 1e-3,
    mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Lion: the steps of ``optax.lion`` at less memory traffic.

    .. math::
      x_t = x_{t-1} - \eta_t\left(\operatorname{sign}(\beta_1 m_{t-1} + (1-\beta_1) g_t)
      + \lambda x_{t-1}\right), \qquad m_t = \beta_2 m_{t-1} + (1-\beta_2) g_t

    It is :func:`lion_k` with :math:`\mathcal K=\|\cdot\|_1`, so it minimizes :math:`f` subject to
    :math:`\|x\|_\infty\le 1/\lambda`. The authors' default decay is 0, here it is optax's. Learning
    rates are 3 to 10 times smaller than those of Adam, decays larger by as much.

    Args:
      learning_rate: Step size :math:`\eta`, or a schedule.
      b1: Weight of the momentum in the interpolation, in [0, 1).
      b2: Decay of the momentum, in [0, 1).
      mu_dtype: dtype of the momentum; ``None`` is that of the parameters.
      weight_decay: Decay :math:`\lambda` >= 0, or a schedule, times the learning rate.
      mask: Which leaves decay: a tree of bools (a prefix will do), a function of the parameters
        that returns one, or one of (path, leaf), such as :func:`optim.is_hidden_matrix`.

    Returns:
      The optimizer.

    Raises:
      ValueError: If an argument is out of its range or a leaf is complex.

    Example:
      >>> import jax.numpy as jnp, optax, optim
      >>> tx = optim.lion(0.1, weight_decay=0.0)
      >>> params = jnp.array([1.0, -2.0])
      >>> updates, state = tx.update(jnp.array([0.5, -2.0]), tx.init(params), params)
      >>> optax.apply_updates(params, updates)
      Array([ 0.9, -1.9], dtype=float32)

    References:
      Chen et al., Symbolic Discovery of Optimization Algorithms, 2023,
      https://arxiv.org/abs/2302.06675
    """
    return lion_k(learning_rate, kappas.l1, b1, b2, mu_dtype, weight_decay, mask)
