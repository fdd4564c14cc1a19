"""The function that Lion-K decreases while it trains."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from optim import _checks, _trees, kappas
from optim.kappas import Kappa

__all__ = ["lyapunov"]


def lyapunov(
    state: optax.OptState,
    params: optax.Params,
    value: jax.typing.ArrayLike,
    kappa: Kappa = kappas.l1,
    *,
    learning_rate: jax.typing.ArrayLike,
    weight_decay: jax.typing.ArrayLike,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.99,
) -> jax.Array:
    r"""Value that Lion-K decreases: the objective it minimizes plus a distance of its momentum.

    .. math::
      H = f(x) + \tfrac1\lambda\mathcal K^*(\lambda x) + \frac{\eta\beta_1}{1-\beta_2 +
      \eta\lambda(1-\beta_1)}
      \left(\mathcal K^*(\lambda x) + \mathcal K(m) + \lambda\, m^\top x\right)

    In continuous time it never rises; in training with a small learning rate, up to noise. It is
    infinite until the parameters are in the set that ``kappa`` implies. The bracket is >= 0 and 0
    where the momentum is at rest. (Derived from the paper's function for the discrete coefficients,
    divided by the weight of f.)

    Args:
      state: State of :func:`lion_k` or of any chain around it.
      params: Parameters x.
      value: Objective f(x).
      kappa: The kappa of the optimizer.
      learning_rate: Its learning rate, > 0.
      weight_decay: Its decay on all leaves, >= 0; with 0 the second term is 0.
      b1: Its ``b1``.
      b2: Its ``b2``.

    Returns:
      The scalar H.

    Raises:
      ValueError: If a number is out of its range, or there is not one state of Lion in ``state``.

    Example:
      >>> import jax.numpy as jnp, optim
      >>> tx, x = optim.lion(0.01, weight_decay=0.5), jnp.array([1.0, -2.0])
      >>> optim.lyapunov(tx.init(x), x, (x**2).sum(), learning_rate=0.01, weight_decay=0.5)
      Array(5., dtype=float32)

    References:
      Chen et al., Lion Secretly Solves Constrained Optimization, 2023,
      https://arxiv.org/abs/2310.05898
    """
    _checks.number("learning_rate", learning_rate, 0, open_low=True)
    _checks.number("weight_decay", weight_decay, 0)
    _trees.check_rate("b1", b1)
    _trees.check_rate("b2", b2)
    momenta = optax.tree.get_all_with_path(state, "mu", filtering=_of_lion)
    if len(momenta) != 1:
        raise ValueError(f"state must hold one state of Lion, got {len(momenta)} of them")
    mu, params = (
        jax.tree.map(lambda x: _trees.widen(x)[0], tree) for tree in (momenta[0][1], params)
    )
    total = kappa if kappa.joint else _leafwise(kappa)
    dual = total.conjugate(jax.tree.map(lambda x: weight_decay * x, params))
    positive = jnp.asarray(weight_decay) > 0
    regularizer = jnp.where(positive, dual / jnp.where(positive, weight_decay, 1.0), 0.0)
    coupling = sum(
        (jnp.vdot(m, x) for m, x in zip(jax.tree.leaves(mu), jax.tree.leaves(params), strict=True)),
        jnp.zeros(()),
    )
    weight = learning_rate * b1 / (1 - b2 + learning_rate * weight_decay * (1 - b1))
    return (
        jnp.asarray(value)
        + regularizer
        + weight * (dual + total.value(mu) + weight_decay * coupling)
    )


def _leafwise(kappa: Kappa) -> Kappa:
    def total(f):
        return lambda tree: sum((f(c) for c in jax.tree.leaves(tree)), jnp.zeros(()))

    return kappa._replace(value=total(kappa.value), conjugate=total(kappa.conjugate))


def _of_lion(path: tuple, _: Any) -> bool:
    # The momentum, not a parameter that is called alike.
    return getattr(path[-1], "tuple_name", None) == "ScaleByLionState"
