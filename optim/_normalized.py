"""Logistic regression by gradient descent with large steps, normalized by the errors' weight."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optim import _checks, _directions
from optim._solver import Solver

__all__ = [
    "NormalizedDescentState",
    "normalized_gradient_descent",
    "normalized_logistic_gradient",
]


def normalized_logistic_gradient(
    theta: jax.Array, features: jax.Array, labels: jax.Array
) -> jax.Array:
    r"""The gradient of the logistic loss over the mean weight of the examples.

    .. math::
      \bar g(\theta) = -\frac{\sum_i \sigma(-m_i)\, y_i x_i}{\sum_i \sigma(-m_i)}
      = -\sum_i \operatorname{softmax}(\log \sigma(-m))_i\, y_i x_i, \qquad
      m_i = y_i \langle x_i, \theta \rangle

    It does not vanish where all examples are classified. The quotient itself is 0/0 once all
    margins exceed 103 in float32 (745 in float64); the softmax is exact.

    Args:
      theta: Weights [d].
      features: Examples x [n, d].
      labels: y [n], each 1 or -1.

    Returns:
      The normalized gradient [d]: a step is :math:`\theta - \gamma \bar g`.

    Raises:
      ValueError: If the shapes do not fit or a label is neither 1 nor -1.

    Example:
      >>> import jax.numpy as jnp, optim
      >>> x, y = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([1, -1])
      >>> optim.normalized_logistic_gradient(jnp.zeros(2), x, y)
      Array([-0.5,  0.5], dtype=float32)

    References:
      Tyurin, From Logistic Regression to the Perceptron Algorithm: Exploring Gradient Descent with
      Large Step Sizes, 2024, https://arxiv.org/abs/2412.08424
    """
    margins = _margins(theta, features, labels)
    weights = jax.nn.softmax(jax.nn.log_sigmoid(-margins))
    return -(weights * labels) @ features


class NormalizedDescentState(NamedTuple):
    """State of :func:`normalized_gradient_descent`.

    Attributes:
      theta: Weights [d].
      opt_state: State of the optimizer.
    """

    theta: jax.Array
    opt_state: Any


def normalized_gradient_descent(
    learning_rate: optax.ScalarOrSchedule | optax.GradientTransformation,
) -> Solver:
    r"""Gradient descent on :func:`normalized_logistic_gradient`, for separable data.

    .. math::
      \theta_{t+1} = \theta_t - \gamma_t\, \bar g(\theta_t)

    With plain gradient descent and a large step the last misclassified examples move the weights
    by :math:`1/n` of the step; here they get all of it.

    Args:
      learning_rate: Step size :math:`\gamma`, a schedule, or an optax optimizer. Large ones are
        meant: as the step grows, plain gradient descent becomes the batch perceptron.

    Returns:
      The solver, ``init(theta)`` and ``step(state, (features, labels)) -> (state, metrics)``, whose
      state is a :class:`NormalizedDescentState`. Metrics, before the step: ``loss``, the mean of
      :math:`\log(1 + e^{-m_i})`, and ``errors``, the number of margins <= 0.

    Raises:
      ValueError: If ``learning_rate`` is not finite or a direction; at a step, as
        :func:`normalized_logistic_gradient`.

    Example:
      >>> import jax.numpy as jnp, optim
      >>> x = jnp.array([[1.0, 0.5]] * 99 + [[-0.5, 0.1]])  # Gradient descent needs 90 steps.
      >>> solver = optim.normalized_gradient_descent(10.0)
      >>> state = solver.init(jnp.zeros(2))
      >>> for _ in range(4):
      ...   state, metrics = solver.step(state, (x, jnp.ones(100)))
      >>> float(metrics["errors"])
      0.0

    References:
      Tyurin, From Logistic Regression to the Perceptron Algorithm: Exploring Gradient Descent with
      Large Step Sizes, 2024, https://arxiv.org/abs/2412.08424
    """
    _checks.number("learning_rate", learning_rate, schedule=True, transform=True)
    given = isinstance(learning_rate, optax.GradientTransformation)
    tx: Any = learning_rate if given else optax.sgd(learning_rate)
    if given:
        _directions.check_optimizer("learning_rate", tx)

    def init(theta):
        return NormalizedDescentState(theta, tx.init(theta))

    def step(state, batch):
        theta, (features, labels) = state.theta, batch
        margins = _margins(theta, features, labels)
        gradient = normalized_logistic_gradient(theta, features, labels)
        updates, opt_state = tx.update(gradient, state.opt_state, theta)
        metrics = {
            "loss": jnp.mean(jax.nn.softplus(-margins)),
            "errors": jnp.sum(margins <= 0, dtype=margins.dtype),
        }
        theta: Any = optax.apply_updates(theta, updates)
        return NormalizedDescentState(theta, opt_state), metrics

    return Solver(init, step)


def _margins(theta: Any, features: Any, labels: Any) -> jax.Array:
    if jnp.ndim(theta) != 1 or jnp.ndim(labels) != 1:
        raise ValueError(
            f"theta and labels must be vectors, got shapes {jnp.shape(theta)}, {jnp.shape(labels)}"
        )
    if jnp.shape(features) != (len(labels), len(theta)):
        raise ValueError(
            f"features must have shape {(len(labels), len(theta))}, an example for each label and "
            f"a column for each weight, got {jnp.shape(features)}"
        )
    if not isinstance(labels, jax.core.Tracer) and np.any(np.abs(np.asarray(labels)) != 1):
        wrong = np.asarray(labels)[np.abs(np.asarray(labels)) != 1][0]
        raise ValueError(f"labels must be 1 or -1, got {wrong}")
    return labels * (features @ theta)
