"""AdaGrad-Norm: one adaptive step size for all parameters."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim import _checks, _trees

__all__ = ["ScaleByAdagradNormState", "adagrad_norm", "scale_by_adagrad_norm"]


class ScaleByAdagradNormState(NamedTuple):
    """State of :func:`scale_by_adagrad_norm`.

    Attributes:
      sum_of_squares: :math:`b^2`, a floating-point scalar. With ``authors`` a tree like the
        parameters, of [rows] for matrices and whole tensors for vectors.
    """

    sum_of_squares: Any


def scale_by_adagrad_norm(
    initial_accumulator_value: float = 0.1, eps: float = 1e-10, authors: bool = False
) -> optax.GradientTransformation:
    r"""Divides gradients by the root of the sum of all their squared norms so far.

    .. math::
      b_t^2 = b_{t-1}^2 + \|g_t\|^2, \qquad u_t = \frac{g_t}{b_t + \epsilon}

    Args:
      initial_accumulator_value: :math:`b_0^2 \ge 0`.
      eps: :math:`\epsilon \ge 0`.
      authors: Whether to do as AdAdaGrad's code: every row (along axis 0, that of the outputs in
        PyTorch) of a matrix or kernel has its own sum, and every entry of a vector; to the latter
        are added the squared norms of the rows of the matrix before it in the tree, if there are
        as many.

    Returns:
      The transformation; its state is a :class:`ScaleByAdagradNormState`, 4 bytes in all.

    Raises:
      ValueError: If an argument is out of its range or a leaf is complex.

    Example:
      >>> import jax.numpy as jnp, optim
      >>> tx = optim.scale_by_adagrad_norm(initial_accumulator_value=0.0)
      >>> params = jnp.zeros(2)
      >>> tx.update(jnp.array([3.0, 4.0]), tx.init(params))[0]
      Array([0.6, 0.8], dtype=float32)

    References:
      Ward, Wu & Bottou, AdaGrad Stepsizes: Sharp Convergence over Nonconvex Landscapes, 2018,
      https://arxiv.org/abs/1806.01811; Lau, Liu & Kolar, AdAdaGrad, 2024,
      https://arxiv.org/abs/2402.11215
    """
    _checks.number("initial_accumulator_value", initial_accumulator_value, 0)
    _checks.number("eps", eps, 0)
    _checks.flag("authors", authors)

    def init_fn(params):
        def begin(path, p):
            _checks.real_leaf(path, p)
            shape = jnp.shape(p)[:1] if jnp.ndim(p) > 1 else jnp.shape(p)
            return jnp.full(shape, initial_accumulator_value, _trees.wide_dtype(p))

        each = jax.tree_util.tree_map_with_path(begin, params)
        if authors:
            return ScaleByAdagradNormState(each)
        zero = _trees.scalar_zero(params, jnp.result_type(float))
        return ScaleByAdagradNormState(zero + initial_accumulator_value)

    def update_fn(updates, state, params=None):
        del params
        if authors:
            return _by_rows(updates, state, eps)

        def square(path, g):
            _checks.gradient(path, g)
            return jnp.sum(jnp.square(_trees.widen(g)[0]))

        squares = jax.tree_util.tree_map_with_path(square, updates)
        total = state.sum_of_squares + sum(jax.tree.leaves(squares), start=jnp.zeros([]))
        total = jnp.asarray(total, state.sum_of_squares.dtype)
        directions = jax.tree.map(lambda g: _divided(g, total, eps), updates)
        return directions, ScaleByAdagradNormState(total)

    return optax.GradientTransformation(init_fn, update_fn)


def _divided(g: jax.Array, square: jax.Array, eps: float) -> jax.Array:
    root = _trees.root(square) + eps
    return (_trees.widen(g)[0] / jnp.where(root == 0, 1.0, root)).astype(jnp.result_type(g))


def _by_rows(updates: Any, state: Any, eps: float) -> Any:
    rows = jnp.zeros(0)  # Squared norms of the rows of the matrix before.

    def one(path, g, total):
        nonlocal rows
        _checks.gradient(path, g)
        (wide,) = _trees.widen(g)
        if g.ndim > 1:
            rows = jnp.sum(jnp.square(wide), range(1, g.ndim))
            total = total + rows
            return _divided(g, total.reshape(-1, *(1,) * (g.ndim - 1)), eps), total
        total = total + jnp.square(wide)
        total = total + rows if rows.shape == total.shape else total
        return _divided(g, total, eps), total

    directions, totals = _trees.map_unzip(one, 2, updates, state.sum_of_squares)
    return directions, ScaleByAdagradNormState(totals)


def adagrad_norm(
    learning_rate: optax.ScalarOrSchedule,
    initial_accumulator_value: float = 0.1,
    eps: float = 1e-10,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any = None,
    *,
    authors: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""AdaGrad-Norm: gradient descent whose step size falls with the gradients seen so far.

    .. math::
      b_t^2 = b_{t-1}^2 + \|g_t\|^2, \qquad
      x_{t+1} = x_t - \eta_t \left(\frac{g_t}{b_t + \epsilon} + \lambda x_t\right)

    The norm is that of the gradient of all parameters together. It needs one number of state.

    Args:
      learning_rate: Step size :math:`\eta`, or a schedule.
      initial_accumulator_value: :math:`b_0^2 \ge 0`.
      eps: :math:`\epsilon \ge 0`.
      weight_decay: Decay :math:`\lambda \ge 0`, or a schedule, times the learning rate. (The
        argument of that name in AdAdaGrad's code multiplies the gradient, and is not offered.)
      mask: Which leaves decay: a tree of bools (a prefix will do), or a function of the parameters
        or of (path, leaf).
      authors: As for :func:`scale_by_adagrad_norm`.

    Returns:
      The optimizer; 4 bytes of state in all.

    Raises:
      ValueError: If an argument is out of its range or a leaf is complex.

    Example:
      >>> import jax.numpy as jnp, optax, optim
      >>> tx = optim.adagrad_norm(1.0, initial_accumulator_value=0.0)
      >>> x = jnp.array([3.0, 4.0])
      >>> tx.update(x, tx.init(x), x)[0]
      Array([-0.6, -0.8], dtype=float32)

    References:
      Ward, Wu & Bottou, AdaGrad Stepsizes: Sharp Convergence over Nonconvex Landscapes, 2018,
      https://arxiv.org/abs/1806.01811
    """
    _checks.number("learning_rate", learning_rate, schedule=True)
    _checks.number("weight_decay", weight_decay, 0, schedule=True)
    optimizer = optax.chain(
        scale_by_adagrad_norm(initial_accumulator_value, eps, authors),
        _trees.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )
    return _trees.checked(optimizer)
