"""AdamP: Adam without the growth of scale-invariant weights."""

from typing import Any

import jax.numpy as jnp
import optax

from optim import _checks, _trees
from optim._scale_invariant import Axis, Stacked, projected

__all__ = ["adamp"]


def _scale_by_adam(
    b1, b2, eps, eps_root, nesterov, mu_dtype, nu_dtype
) -> optax.GradientTransformation:
    """``optax.scale_by_adam`` with ``nu_dtype`` and the Nesterov form of AdamP.

    Its directions are in float32 at least.
    """

    def init_fn(params):
        return optax.ScaleByAdamState(
            count=jnp.zeros([], jnp.int32),
            mu=_trees.zeros(params, mu_dtype),
            nu=_trees.zeros(params, nu_dtype),
        )

    def update_fn(updates, state, params=None):
        del params
        count = optax.safe_increment(state.count)

        def moments(path, g, mu, nu):
            _trees.check_gradient(path, g, mu, nu)
            g_wide, m, v = _trees.widen(g, mu, nu)
            beta1, beta2 = (_trees.decay_rate(b, m.dtype) for b in (b1, b2))
            m = beta1 * m + (1 - beta1) * g_wide
            v = beta2 * v + (1 - beta2) * jnp.square(g_wide)
            correction1 = _trees.bias_correction(beta1, count, m.dtype)
            correction2 = _trees.bias_correction(beta2, count, m.dtype)
            ahead = beta1 * m + (1 - beta1) * g_wide if nesterov else m
            root = _trees.root(v / correction2 + _trees.epsilon(eps_root, v.dtype))
            u = ahead / (correction1 * (root + _trees.epsilon(eps, v.dtype)))
            return u, m.astype(mu.dtype), v.astype(nu.dtype)

        directions, mu, nu = _trees.map_unzip(moments, 3, updates, state.mu, state.nu)
        return directions, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init_fn, update_fn)


def adamp(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    *,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    delta: float = 0.1,
    wd_ratio: float = 0.1,
    nesterov: bool = False,
    channel_axis: Axis = -1,
    stacked: Stacked = None,
    mask: Any = None,
    mu_dtype: Any = None,
    nu_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""AdamP: Adam whose step has no radial part where the weights are scale-invariant.

    .. math::
      m_t &= \beta_1 m_{t-1} + (1-\beta_1) g_t, \qquad
      v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2 \\
      u_t &= \frac{m_t/(1-\beta_1^t)}{\sqrt{v_t/(1-\beta_2^t)} + \epsilon} \\
      (u_t, r_t) &\leftarrow \text{projection of } u_t \text{ along } p_{t-1}
      \text{, by the angle of } g_t \text{ and } p_{t-1} \\
      p_t &= p_{t-1} - \eta_t (u_t + \lambda r_t\, p_{t-1})

    The projection is :func:`optim.project_scale_invariant`. Behind weights that a normalization
    follows it keeps the norm from growing, and with it the effective step size from decaying.

    Args:
      learning_rate: Step size :math:`\eta`, or a schedule; the authors' default is 1e-3.
      b1: Decay of the first moment, in [0, 1).
      b2: Decay of the second moment, in [0, 1).
      eps: Added to the corrected root of the second moment and to the projection's norms, >= 0.
      eps_root: Added to the corrected second moment under the root, >= 0, as in optax: it bounds
        derivatives through the update where the second moment is small. (Where that is zero they
        are zero.)
      weight_decay: Decay :math:`\lambda` >= 0, or a schedule, times the learning rate.
      delta: Threshold of the cosine test, >= 0.
      wd_ratio: Factor :math:`r` of the decay where the projection fired, in [0, 1].
      nesterov: Whether :math:`u_t` looks ahead, :math:`\beta_1 m_t + (1-\beta_1) g_t` in place of
        :math:`m_t`, with the same bias correction (the authors' form, not that of NAdam).
      channel_axis: Axis or axes of the output channels, as in
        :func:`optim.project_scale_invariant`: -1 is right for Flax kernels, 0 for embeddings and
        PyTorch layouts. Or a function of (path, array), or a tree.
      stacked: Number of leading axes that stack layers, a function of (path, array) or a tree.
      mask: Which leaves decay: a tree of bools (a prefix will do), a function of the parameters
        that returns one, or one of (path, leaf), such as :func:`optim.is_hidden_matrix`.
      mu_dtype: dtype of the first moment; ``None`` is that of the parameters.
      nu_dtype: dtype of the second moment; ``None`` is that of the parameters.

    Returns:
      The optimizer; 8 bytes of state per float32 parameter.

    Raises:
      ValueError: If an argument is out of its range or a leaf is complex.

    Example:
      >>> import jax, jax.numpy as jnp, optax, optim
      >>> tx = optim.adamp(1e-2, weight_decay=1e-2, channel_axis=lambda path, x:
      ...   0 if "embedding" in jax.tree_util.keystr(path) else -1)
      >>> params = {"embedding": jnp.ones((4, 2)), "kernel": jnp.ones((2, 3))}
      >>> state = tx.init(params)
      >>> grads = jax.grad(lambda p: jnp.sum((p["embedding"] @ p["kernel"]) ** 2))(params)
      >>> updates, state = tx.update(grads, state, params)
      >>> optax.apply_updates(params, updates)["kernel"][0]
      Array([0.9899, 0.9899, 0.9899], dtype=float32)

    References:
      Heo et al., AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant
      Weights, 2020, https://arxiv.org/abs/2006.08217
    """
    _checks.number("learning_rate", learning_rate, schedule=True)
    _trees.check_rate("b1", b1)
    _trees.check_rate("b2", b2)
    _checks.number("eps", eps, 0)
    _checks.number("eps_root", eps_root, 0)
    _checks.flag("nesterov", nesterov)
    _checks.float_dtype("mu_dtype", mu_dtype)
    _checks.float_dtype("nu_dtype", nu_dtype)
    direction = projected(
        _scale_by_adam(b1, b2, eps, eps_root, nesterov, mu_dtype, nu_dtype),
        weight_decay,
        delta,
        wd_ratio,
        eps,
        channel_axis,
        stacked,
        mask,
    )
    return optax.chain(direction, optax.scale_by_learning_rate(learning_rate))
