"""Optimizers of one name that are put together from pieces of ``optim`` and ``optax``."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

import optim

__all__ = [
    "cautious_decay_adamw",
    "cautious_decay_lion",
    "cautious_decay_muon",
    "orthograd_adamw",
    "orthograd_sgd",
    "projected_muon",
    "projected_soap",
    "soap",
]


def orthograd_adamw(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    weight_decay: Any = 1e-4,
    *,
    rescale: bool = True,
) -> optax.GradientTransformation:
    """AdamW on gradients without their part along the weights; vectors keep theirs."""
    inner = optax.adamw(learning_rate, b1, b2, eps, weight_decay=weight_decay)
    return optim.orthograd(inner, rescale=rescale, mask=_is_matrix)


def orthograd_sgd(
    learning_rate: Any,
    momentum: Any = None,
    nesterov: bool = False,
    weight_decay: Any = 0.0,
    *,
    rescale: bool = True,
) -> optax.GradientTransformation:
    """SGD on gradients without their part along the weights; vectors keep theirs."""
    decay = optax.add_decayed_weights(weight_decay)
    inner = optax.chain(decay, optax.sgd(learning_rate, momentum, nesterov))
    return optim.orthograd(inner, rescale=rescale, mask=_is_matrix)


def _is_matrix(path: Any, leaf: Any) -> bool:
    return jnp.ndim(leaf) > 1


def cautious_decay_adamw(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    weight_decay: Any = 1e-4,
    *,
    strict: bool = False,
    decay_power: float = 1,
) -> optax.GradientTransformation:
    """AdamW whose decay is :func:`optim.cautious_decay`."""
    inner = optax.adamw(learning_rate, b1, b2, eps, weight_decay=0.0)
    return _cautious(inner, learning_rate, weight_decay, strict, decay_power)


def cautious_decay_lion(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.99,
    weight_decay: Any = 1e-3,
    *,
    strict: bool = False,
    decay_power: float = 1,
) -> optax.GradientTransformation:
    """Lion whose decay is :func:`optim.cautious_decay`."""
    inner = optim.lion(learning_rate, b1, b2, weight_decay=0.0)
    return _cautious(inner, learning_rate, weight_decay, strict, decay_power)


def cautious_decay_muon(
    learning_rate: Any,
    beta: Any = 0.95,
    weight_decay: Any = 0.0,
    *,
    strict: bool = False,
    decay_power: float = 1,
) -> optax.GradientTransformation:
    """Muon whose decay is :func:`optim.cautious_decay`, on matrices as in ``optax``."""
    inner = contrib.muon(learning_rate, beta=beta)
    return _cautious(inner, learning_rate, weight_decay, strict, decay_power, mask=_is_matrix)


def _cautious(inner, learning_rate, weight_decay, strict, decay_power, mask=None):
    options = dict(strict=strict, decay_power=decay_power, mask=mask)
    return optim.cautious_decay(inner, learning_rate, weight_decay, **options)


def projected_muon(
    learning_rate: Any,
    beta: Any = 0.95,
    weight_decay: Any = 0.0,
    *,
    delta: float = 0.1,
    wd_ratio: float = 0.1,
) -> optax.GradientTransformation:
    """Muon whose step has no radial part where the weights look scale-invariant."""
    return _projected(contrib.muon(1.0, beta=beta), learning_rate, weight_decay, delta, wd_ratio)


def projected_soap(
    learning_rate: Any,
    b1: Any = 0.95,
    b2: Any = 0.95,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    *,
    every: int = 10,
    delta: float = 0.1,
    wd_ratio: float = 0.1,
) -> optax.GradientTransformation:
    """:func:`soap` whose step has no radial part where the weights look scale-invariant."""
    inner = soap(1.0, b1, b2, eps, every=every)
    return _projected(inner, learning_rate, weight_decay, delta, wd_ratio)


def _projected(inner, learning_rate, weight_decay, delta, wd_ratio):
    """``inner``, an optimizer of rate 1, projected."""
    direction = optax.chain(inner, optax.scale(-1.0))
    options = dict(weight_decay=weight_decay, delta=delta, wd_ratio=wd_ratio, mask=_is_matrix)
    return optax.chain(
        optim.project_scale_invariant(direction, **options),
        optax.scale_by_learning_rate(learning_rate),
    )


def soap(
    learning_rate: Any,
    b1: Any = 0.95,
    b2: Any = 0.95,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    *,
    every: int = 10,
) -> optax.GradientTransformation:
    r"""SOAP: Adam in the eigenbases of Shampoo's two preconditioners.

    .. math::
      L_t = \beta_2 L_{t-1} + (1 - \beta_2)\, G_t G_t^\top, \qquad
      R_t = \beta_2 R_{t-1} + (1 - \beta_2)\, G_t^\top G_t, \qquad
      U_t = Q_L\, \mathrm{Adam}(Q_L^\top G_t Q_R)\, Q_R^\top

    For matrices of at most 1024 rows and columns; other leaves get Adam. The bases are computed
    anew every ``every`` steps by ``eigh`` (the authors': by a step of the power iteration and QR),
    and the first moment is kept in the original space.

    References:
      Vyas et al., SOAP: Improving and Stabilizing Shampoo using Adam, 2024,
      https://arxiv.org/abs/2409.11321
    """

    def preconditioned(p):
        return jnp.ndim(p) == 2 and max(jnp.shape(p)) <= 1024

    def init_fn(params):
        def square(axis):
            return jax.tree.map(
                lambda p: jnp.zeros((p.shape[axis],) * 2) if preconditioned(p) else jnp.zeros(0),
                params,
            )

        zeros = jax.tree.map(jnp.zeros_like, params)
        grams = (square(0), square(1))
        return jnp.zeros([], jnp.int32), zeros, zeros, grams, grams

    def update_fn(updates, state, params=None):
        del params
        count, mu, nu, grams, bases = state
        step = count + 1

        def gram(left):
            def new(g, old):
                product = g @ g.T if left else g.T @ g
                return b2 * old + (1 - b2) * product

            return new

        def kept(g, left, right):
            if not preconditioned(g):
                return left, right
            return gram(True)(g, left), gram(False)(g, right)

        pairs = jax.tree.map(kept, updates, *grams)
        grams = tuple(jax.tree.map(lambda _, x, i=i: x[i], updates, pairs) for i in (0, 1))

        def eigenbasis(x):
            return jnp.linalg.eigh(x)[1] if x.ndim == 2 else x

        bases = jax.lax.cond(
            count % every == 0, lambda: jax.tree.map(eigenbasis, grams), lambda: bases
        )

        def turned(g, left, right):
            return left.T @ g @ right if preconditioned(g) else g

        def direction(m, v, left, right):
            m_hat = turned(m, left, right) / (1 - b1**step)
            u = m_hat / (jnp.sqrt(v / (1 - b2**step)) + eps)
            return left @ u @ right.T if preconditioned(m) else u

        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, mu, updates)
        rotated = jax.tree.map(turned, updates, *bases)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, nu, rotated)
        directions = jax.tree.map(direction, mu, nu, *bases)
        return directions, (step, mu, nu, grams, bases)

    return optax.chain(
        optax.GradientTransformation(init_fn, update_fn),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )
