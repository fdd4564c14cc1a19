"""diffGrad: Adam with a friction where the gradient hardly changes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim import _checks, _trees, _xla_cpu

__all__ = ["ScaleByDiffGradState", "diffgrad", "scale_by_diffgrad"]


class ScaleByDiffGradState(NamedTuple):
    """State of :func:`scale_by_diffgrad`.

    Attributes:
      count: Steps done, an int32 scalar.
      mu: First moment, shaped like the parameters.
      nu: Second moment, shaped like the parameters.
      prev_grad: Gradient of the last step, shaped like the parameters; ``None`` with
        ``authors_v1``.
    """

    count: jax.typing.ArrayLike
    mu: Any
    nu: Any
    prev_grad: Any


def scale_by_diffgrad(
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    *,
    mu_dtype: Any = None,
    nu_dtype: Any = None,
    authors_v1: bool = False,
) -> optax.GradientTransformation:
    r"""Direction of diffGrad: Adam's, scaled by the change of the gradient.

    .. math::
      m_t &= \beta_1 m_{t-1} + (1-\beta_1) g_t, \qquad
      v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2 \\
      \xi_t &= \frac{1}{1 + e^{-|g_{t-1} - g_t|}}, \quad g_0 = 0 \\
      u_t &= \frac{\sqrt{1-\beta_2^t}}{1-\beta_1^t}\cdot\frac{\xi_t m_t}{\sqrt{v_t} + \epsilon}

    :math:`\epsilon` is added before the bias correction, as in the authors' PyTorch code (their
    notebooks add it after, as Adam does).

    Args:
      b1: Decay of the first moment, in [0, 1).
      b2: Decay of the second moment, in [0, 1).
      eps: Added to the root of the second moment, >= 0.
      eps_root: Added to the second moment under the root, >= 0: it bounds derivatives through the
        update where the second moment is small. (Where that is zero they are zero.)
      mu_dtype: dtype of the first moment; ``None`` is that of the parameters.
      nu_dtype: dtype of the second moment; ``None`` is that of the parameters.
      authors_v1: Whether to behave as the code of the published results: it stored the gradient by
        reference, so :math:`\xi_t` was 1/2 from the second step on. Needs no previous gradient.

    Returns:
      The transformation; 12 bytes of state per float32 parameter (8 with ``authors_v1``).

    Raises:
      ValueError: If an argument is out of its range or a leaf is complex.

    Example:
      >>> import jax.numpy as jnp, optim
      >>> tx = optim.scale_by_diffgrad()
      >>> state = tx.init(jnp.zeros(2))
      >>> for g in ([1.0, -2.0], [1.0, 2.0]):
      ...   updates, state = tx.update(jnp.array(g), state)
      >>> updates  # Half of Adam's step where the gradient did not change.
      Array([0.49999..., 0.0516...], dtype=float32)

    References:
      Dubey et al., diffGrad: An Optimization Method for Convolutional Neural Networks, 2020,
      https://arxiv.org/abs/1909.11015
    """
    _trees.check_rate("b1", b1)
    _trees.check_rate("b2", b2)
    _checks.number("eps", eps, 0)
    _checks.number("eps_root", eps_root, 0)
    _checks.float_dtype("mu_dtype", mu_dtype)
    _checks.float_dtype("nu_dtype", nu_dtype)
    _checks.flag("authors_v1", authors_v1)

    def init_fn(params):
        return ScaleByDiffGradState(
            count=jnp.zeros([], jnp.int32),
            mu=_trees.zeros(params, mu_dtype),
            nu=_trees.zeros(params, nu_dtype),
            prev_grad=None if authors_v1 else _trees.zeros(params),
        )

    def update_fn(updates, state, params=None):
        del params
        count = optax.safe_increment(state.count)

        def direction(g, change, mu, nu):
            g, m, v = _trees.widen(g, mu, nu)
            beta1, beta2 = (_trees.decay_rate(b, m.dtype) for b in (b1, b2))
            m = beta1 * m + (1 - beta1) * g
            v = beta2 * v + (1 - beta2) * jnp.square(g)
            correction1 = _trees.bias_correction(beta1, count, m.dtype)
            correction2 = _trees.bias_correction(beta2, count, m.dtype)
            friction = 1 + jnp.exp(-jnp.abs(change))  # Its inverse: one division for both.
            root = _trees.root(v + _trees.epsilon(eps_root, v.dtype)) + _trees.epsilon(eps, v.dtype)
            u = jnp.sqrt(correction2) / correction1 * m / (friction * root)
            return u, m.astype(mu.dtype), v.astype(nu.dtype)

        def first_version(path, g, mu, nu):
            _trees.check_gradient(path, g, mu, nu)
            (change,) = _trees.widen(jnp.where(count == 1, g, jnp.zeros_like(g)))
            u, mu, nu = direction(g, change, mu, nu)
            return u.astype(g.dtype), mu, nu

        def second_version(path, g, mu, nu, prev):
            _trees.check_gradient(path, g, mu, nu, prev)
            g_wide, prev_wide = _trees.widen(g, prev)
            u, mu, nu = direction(g, prev_wide - g_wide, mu, nu)
            return u.astype(g.dtype), mu, nu, g.astype(prev.dtype)

        if authors_v1:
            u, mu, nu = _trees.map_unzip(first_version, 3, updates, state.mu, state.nu)
            return u, ScaleByDiffGradState(count, mu, nu, None)
        u, mu, nu, prev = _trees.map_unzip(
            second_version, 4, updates, state.mu, state.nu, state.prev_grad
        )
        return u, ScaleByDiffGradState(count, mu, nu, prev)

    return optax.GradientTransformation(init_fn, update_fn)


def diffgrad(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    *,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any = None,
    mu_dtype: Any = None,
    nu_dtype: Any = None,
    authors_v1: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""diffGrad: Adam that slows down where the gradient hardly changes.

    .. math::
      p_t = p_{t-1} - \eta_t\,\frac{\sqrt{1-\beta_2^t}}{1-\beta_1^t}\cdot
      \frac{\xi_t m_t}{\sqrt{v_t} + \epsilon}, \qquad
      \xi_t = \frac{1}{1 + e^{-|g_{t-1} - g_t|}}

    with the moments of Adam of :math:`g_t + \lambda p_{t-1}`: decay is an L2 penalty, as in the
    authors' code (which also changes the user's gradient; this does not). It is the corrected
    version of the code; ``authors_v1`` gives the one of the published results.

    Args:
      learning_rate: Step size :math:`\eta`, or a schedule; the authors' default is 1e-3.
      b1: Decay of the first moment, in [0, 1).
      b2: Decay of the second moment, in [0, 1).
      eps: Added to the root of the second moment, before bias correction, >= 0.
      eps_root: Added under that root, >= 0, for derivatives through the update.
      weight_decay: L2 penalty :math:`\lambda` >= 0, or a schedule.
      mask: Which leaves the penalty acts on: a tree of bools (a prefix will do), a function of the
        parameters that returns one, or one of (path, leaf), such as
        :func:`optim.is_hidden_matrix`.
      mu_dtype: dtype of the first moment; ``None`` is that of the parameters.
      nu_dtype: dtype of the second moment; ``None`` is that of the parameters.
      authors_v1: Whether :math:`\xi_t` is 1/2 from the second step on (:func:`scale_by_diffgrad`).

    Returns:
      The optimizer; 12 bytes of state per float32 parameter.

    Raises:
      ValueError: If an argument is out of its range or a leaf is complex.

    Example:
      >>> import jax.numpy as jnp, optax, optim
      >>> tx = optim.diffgrad(0.1)
      >>> params = jnp.array([1.0, -2.0])
      >>> updates, state = tx.update(jnp.array([2.0, -4.0]), tx.init(params), params)
      >>> optax.apply_updates(params, updates)
      Array([ 0.9119..., -1.9017...], dtype=float32)

    References:
      Dubey et al., diffGrad: An Optimization Method for Convolutional Neural Networks, 2020,
      https://arxiv.org/abs/1909.11015
    """
    _checks.number("learning_rate", learning_rate, schedule=True)
    _checks.number("weight_decay", weight_decay, 0, schedule=True)
    optimizer = optax.chain(
        _trees.add_decayed_weights(weight_decay, mask),
        scale_by_diffgrad(
            b1, b2, eps, eps_root, mu_dtype=mu_dtype, nu_dtype=nu_dtype, authors_v1=authors_v1
        ),
        optax.scale_by_learning_rate(learning_rate),
    )
    if not authors_v1:
        optimizer = _xla_cpu.write_last(optimizer, position=1, field="prev_grad")
    return _trees.checked(optimizer)
