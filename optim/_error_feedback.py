"""EF21: workers send compressed differences of their gradients."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optim import _checks, _trees
from optim.compressors import Compressor

__all__ = ["ErrorFeedbackState", "ef21_step_size", "error_feedback"]


class ErrorFeedbackState(NamedTuple):
    """State of :func:`error_feedback`; every worker has its own.

    Attributes:
      count: Steps done, an int32 scalar.
      estimate: What the receiver knows of this worker's gradient, like the parameters.
    """

    count: jax.Array
    estimate: Any


def error_feedback(
    compressor: Compressor,
    *,
    weights: Any = None,
    axis_name: str | None = None,
    start: str = "gradient",
    seed: int = 0,
    estimate_dtype: Any = None,
) -> optax.GradientTransformation:
    r"""EF21: the mean of what is known of the workers' gradients, told by compressed messages.

    .. math::
      g_i^{t+1} = g_i^t + C\left(\frac{\nabla f_i(x^{t+1})}{n w_i} - g_i^t\right), \qquad
      g^{t+1} = \sum_{i=1}^n w_i\, g_i^{t+1}

    With :math:`w_i = 1/n` it is EF21; with the workers' smoothness as weights,
    :math:`w_i = L_i / \sum_j L_j`, EF21-W, whose largest step is longer: see
    :func:`ef21_step_size`. What is left out of a message is not lost: it is part of the next
    difference.

    It stands first in a chain that runs in a ``shard_map``, ``pmap`` or ``vmap`` with a named axis
    of workers, and takes each worker's own gradient (in a ``shard_map`` that with respect to
    :func:`optim.parallel.vary` of the parameters) to the same mean for all. The states differ, so
    that they have the axis where the parameters have none. The sum over the axis is computed on
    whole arrays: this measures a method, it does not compress a network's traffic.

    Args:
      compressor: One of :mod:`optim.compressors`.
      weights: A positive number for each worker, in proportion to :math:`w`; ``None``: all equal.
      axis_name: Name of the axis of workers; ``None`` for a single one.
      start: ``"gradient"``: the first message is whole, :math:`g_i^0 = \nabla f_i(x^0)/(n w_i)`;
        ``"zeros"``: it is compressed, from :math:`g_i^{-1} = 0`.
      seed: Of random compressors, an integer. Each step, leaf and worker draws its own.
      estimate_dtype: dtype of the estimate; ``None`` is that of the parameters.

    Returns:
      The transformation; its state is an :class:`ErrorFeedbackState`, for each worker 4 bytes per
      float32 parameter and 4 for the count.

    Raises:
      ValueError: If an argument is out of its range, the weights are not as many as the workers,
        or a leaf is complex.

    Example:
      >>> import jax, jax.numpy as jnp, optim
      >>> tx = optim.error_feedback(optim.compressors.top_k(1), axis_name="workers")
      >>> update = jax.vmap(tx.update, axis_name="workers", out_axes=(None, 0))
      >>> state = jax.vmap(tx.init)(jnp.zeros((2, 2)))  # Two workers.
      >>> _, state = update(jnp.array([[1.0, 2.0], [3.0, 4.0]]), state)
      >>> update(jnp.array([[0.0, 5.0], [0.0, 5.0]]), state)[0]  # The first moved less: not sent.
      Array([0.5, 4.5], dtype=float32)

    References:
      Richtárik, Sokolov & Fatkhullin, EF21: A New, Simpler, Theoretically Better, and Practically
      Faster Error Feedback, 2021, https://arxiv.org/abs/2106.05203; Richtárik, Gasanov &
      Burlachenko, Error Feedback Reloaded: From Quadratic to Arithmetic Mean of Smoothness
      Constants, 2024, https://arxiv.org/abs/2402.10774
    """
    if not isinstance(compressor, Compressor):
        raise ValueError(f"compressor must be one of optim.compressors, got {compressor!r}")
    _checks.choice("start", start, ["gradient", "zeros"])
    _checks.count("seed", seed, 0)
    _checks.float_dtype("estimate_dtype", estimate_dtype)
    if weights is not None:
        weights = np.asarray(weights) if isinstance(weights, list | tuple) else weights
        _checks.number("weights", weights, 0, open_low=True, array=True)

    def init_fn(params):
        return ErrorFeedbackState(jnp.zeros([], jnp.int32), _trees.zeros(params, estimate_dtype))

    def update_fn(updates, state, params=None):
        del params
        workers = 1 if axis_name is None else jax.lax.axis_size(axis_name)
        worker = 0 if axis_name is None else jax.lax.axis_index(axis_name)
        share = _share(weights, workers, worker)
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), state.count), worker)
        leaves = iter(range(len(jax.tree.leaves(updates))))

        def send(path, gradient, estimate):
            _trees.check_gradient(path, gradient, estimate)
            wide, known = _trees.widen(gradient, estimate)
            target = wide / jnp.asarray(workers * share, wide.dtype)
            message = compressor.compress(jax.random.fold_in(key, next(leaves)), target - known)
            new = known + message
            if start == "gradient":
                new = jnp.where(state.count == 0, target, new)
            mean = jnp.asarray(share, new.dtype) * new
            mean = mean if axis_name is None else jax.lax.psum(mean, axis_name)
            return mean.astype(gradient.dtype), new.astype(estimate.dtype)

        mean, estimate = _trees.map_unzip(send, 2, updates, state.estimate)
        count: Any = optax.safe_increment(state.count)
        return mean, ErrorFeedbackState(count, estimate)

    return optax.GradientTransformation(init_fn, update_fn)


def _share(weights: Any, workers: int, worker: Any) -> Any:
    """The weight w of this worker."""
    if weights is None:
        return 1 / workers
    if jnp.shape(weights) != (workers,):
        raise ValueError(
            f"weights must be one number for each of the {workers} workers, got shape "
            f"{jnp.shape(weights)}"
        )
    weights = jnp.asarray(weights, float)
    return weights[worker] / jnp.sum(weights)


def ef21_step_size(
    smoothness: float, worker_smoothness: Any, alpha: float, *, weighted: bool = False
) -> float:
    r"""The largest step size for which EF21 is proven to converge.

    .. math::
      \gamma = \frac{1}{L + \tilde L \xi}, \qquad
      \xi = \frac{\sqrt{1 - \alpha}}{1 - \sqrt{1 - \alpha}}, \qquad
      \tilde L = \sqrt{\tfrac1n \textstyle\sum_i L_i^2} \text{ for EF21}, \quad
      \tfrac1n \textstyle\sum_i L_i \text{ for EF21-W}

    Args:
      smoothness: Smoothness constant L > 0 of the mean of the workers' losses.
      worker_smoothness: Constants L_i > 0 of their losses [n].
      alpha: :math:`\alpha \in (0, 1]` of the compressor, :func:`optim.compressors.contraction`.
      weighted: Whether the weights of :func:`error_feedback` are L_i (EF21-W).

    Returns:
      :math:`\gamma`.

    Raises:
      ValueError: If an argument is out of its range.

    Example:
      >>> import numpy as np, optim
      >>> worker = np.array([1.0] * 19 + [100.0])
      >>> plain, weighted = (
      ...   optim.ef21_step_size(worker.mean(), worker, 0.2, weighted=w) for w in (False, True)
      ... )
      >>> round(weighted / plain, 1)
      3.5

    References:
      Richtárik, Gasanov & Burlachenko, Error Feedback Reloaded: From Quadratic to Arithmetic Mean
      of Smoothness Constants, 2024, https://arxiv.org/abs/2402.10774
    """
    _checks.number("smoothness", smoothness, 0, open_low=True)
    worker_smoothness = np.asarray(worker_smoothness)
    _checks.number("worker_smoothness", worker_smoothness, 0, open_low=True, array=True)
    _checks.number("alpha", alpha, 0, 1, open_low=True)
    _checks.flag("weighted", weighted)
    constants = np.asarray(worker_smoothness, np.float64)
    mean = constants.mean() if weighted else math.sqrt(np.mean(constants**2))
    root = math.sqrt(1 - float(alpha))
    return float(1 / (smoothness + mean * root / (1 - root)))
