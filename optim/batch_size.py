r"""Adaptive batch sizes: is the variance of the gradients small against the gradient itself?

Each test takes the gradients of the examples of a batch and says how large the next batch should
be, by three variances over the examples (with :math:`n - 1` in the denominator) around their mean
:math:`\bar g`:

=======================  ===================================================================
test                     size
=======================  ===================================================================
``norm_test``            :math:`\sum_j \mathrm{Var}(g_{ij}) / (\eta^2 \|\bar g\|^2)`
``inner_product_test``   :math:`\mathrm{Var}\langle g_i, \bar g\rangle
                         / (\theta^2 \|\bar g\|^4)`
``orthogonality_test``   :math:`\sum_j \mathrm{Var}\bigl(g_i - \tfrac{\langle g_i, \bar g\rangle}
                         {\|\bar g\|^2} \bar g\bigr)_j / (\nu^2 \|\bar g\|^2)`
``augmented_test``       the larger one of the last two
=======================  ===================================================================

rounded up, and never below the size of the batch. A size decides shapes, so a program is compiled
for each: powers of two keep them few.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optim import _checks, _trees

__all__ = [
    "BatchSize",
    "augmented_test",
    "inner_product_test",
    "norm_test",
    "orthogonality_test",
]

MERGES = ("exact", "authors")


class BatchSize(NamedTuple):
    r"""Result of a test; all are scalars.

    Attributes:
      size: Examples that the next batch should have, int32.
      variance: The variance in the numerator; of :func:`augmented_test` a pair of them.
      square_norm: :math:`\|\bar g\|^2`.
    """

    size: jax.Array
    variance: Any
    square_norm: jax.Array


def norm_test(
    gradients: Any,
    eta: float = 0.1,
    *,
    maximum: int | None = None,
    power_of_two: bool = False,
    axis_name: str | None = None,
    merge: str = "exact",
) -> BatchSize:
    r"""Size at which the noise of the mean gradient is ``eta`` times as long as the gradient.

    .. math::
      b^+ = \left\lceil \max\left(b,\;
      \frac{\sum_j \mathrm{Var}(g_{ij})}{\eta^2 \|\bar g\|^2}\right)\right\rceil

    Args:
      gradients: Tree of the gradients of single examples, each leaf [n, ...] with n >= 2: of
        ``jax.vmap(jax.grad(loss), (None, 0))``.
      eta: Allowed ratio :math:`\eta > 0` of noise and gradient.
      maximum: Largest size to return; ``None``: :math:`2^{30}`.
      power_of_two: Whether the size is rounded up to a power of two (down if that is above
        ``maximum``).
      axis_name: Name of the axis of the enclosing ``pmap``, ``shard_map`` or ``vmap`` over which
        the batch is split into equal parts, each with its own ``gradients``.
      merge: How the variances of the parts become one: ``"exact"``, that of the whole batch; or
        ``"authors"``, the mean of the parts' variances plus the variance of their means (with
        the number of parts in the denominator), which is larger.

    Returns:
      The :class:`BatchSize`. A mean gradient of zero gives ``maximum``.

    Raises:
      ValueError: If an argument is out of its range, or a leaf lacks the axis of examples.

    Example:
      >>> import jax, jax.numpy as jnp, optim
      >>> x = jax.random.normal(jax.random.key(0), (64, 10))  # Gradients at w of ||w - x||^2 / 2.
      >>> result = optim.batch_size.norm_test(1.0 - x, eta=0.25, power_of_two=True)
      >>> int(result.size), f"{result.variance:.1f}"
      (64, '9.5')

    References:
      Lau, Liu & Kolar, AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods, 2024,
      https://arxiv.org/abs/2402.11215
    """
    _checks.number("eta", eta, 0, open_low=True)
    moments = _Moments(gradients, axis_name, merge)
    variance, square_norm = moments.variance(), moments.square_norm
    size = _size(moments, variance / (eta**2 * square_norm), maximum, power_of_two)
    return BatchSize(size, variance, square_norm)


def inner_product_test(
    gradients: Any,
    theta: float = 0.1,
    *,
    maximum: int | None = None,
    power_of_two: bool = False,
    axis_name: str | None = None,
    merge: str = "exact",
    per_leaf: bool = False,
) -> BatchSize:
    r"""Size at which the mean gradient is a descent direction of the loss with high probability.

    .. math::
      b^+ = \left\lceil \max\left(b,\;
      \frac{\mathrm{Var}\langle g_i, \bar g\rangle}{\theta^2 \|\bar g\|^4}\right)\right\rceil

    Args:
      gradients: As for :func:`norm_test`.
      theta: :math:`\theta > 0`.
      maximum: As for :func:`norm_test`.
      power_of_two: As for :func:`norm_test`.
      axis_name: As for :func:`norm_test`.
      merge: As for :func:`norm_test`.
      per_leaf: Whether variances of the products are taken leaf by leaf and added, as in the
        authors' code, which neglects the covariance of the leaves.

    Returns:
      The :class:`BatchSize`.

    Raises:
      ValueError: As :func:`norm_test`.

    Example:
      >>> import jax.numpy as jnp, optim
      >>> gradients = jnp.array([[1.0, 0.0], [1.0, 2.0], [4.0, 1.0]])
      >>> int(optim.batch_size.inner_product_test(gradients, theta=0.5).size)
      3

    References:
      Lau, Liu & Kolar, AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods, 2024,
      https://arxiv.org/abs/2402.11215
    """
    _checks.number("theta", theta, 0, open_low=True)
    moments = _Moments(gradients, axis_name, merge)
    variance, square_norm = moments.of_products(per_leaf), moments.square_norm
    size = _size(moments, variance / (theta**2 * square_norm**2), maximum, power_of_two)
    return BatchSize(size, variance, square_norm)


def orthogonality_test(
    gradients: Any,
    nu: float = 0.1,
    *,
    maximum: int | None = None,
    power_of_two: bool = False,
    axis_name: str | None = None,
    merge: str = "exact",
    per_leaf: bool = False,
) -> BatchSize:
    r"""Size at which the part of the noise that is orthogonal to the gradient is small.

    .. math::
      b^+ = \left\lceil \max\left(b,\; \frac{\sum_j \mathrm{Var}\bigl(g_i -
      \tfrac{\langle g_i, \bar g\rangle}{\|\bar g\|^2} \bar g\bigr)_j}
      {\nu^2 \|\bar g\|^2}\right)\right\rceil

    Args:
      gradients: As for :func:`norm_test`.
      nu: :math:`\nu > 0`.
      maximum: As for :func:`norm_test`.
      power_of_two: As for :func:`norm_test`.
      axis_name: As for :func:`norm_test`.
      merge: As for :func:`norm_test`.
      per_leaf: Whether each leaf is projected along its own mean, as in the authors' code.

    Returns:
      The :class:`BatchSize`.

    Raises:
      ValueError: As :func:`norm_test`.

    Example:
      >>> import jax.numpy as jnp, optim
      >>> gradients = jnp.array([[1.0, 0.0], [1.0, 2.0], [1.0, -2.0]])
      >>> int(optim.batch_size.orthogonality_test(gradients, nu=0.5).size)
      16

    References:
      Lau, Liu & Kolar, AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods, 2024,
      https://arxiv.org/abs/2402.11215
    """
    _checks.number("nu", nu, 0, open_low=True)
    moments = _Moments(gradients, axis_name, merge)
    variance, square_norm = moments.of_residuals(per_leaf), moments.square_norm
    size = _size(moments, variance / (nu**2 * square_norm), maximum, power_of_two)
    return BatchSize(size, variance, square_norm)


def augmented_test(
    gradients: Any,
    theta: float = 0.1,
    nu: float = 0.1,
    *,
    maximum: int | None = None,
    power_of_two: bool = False,
    axis_name: str | None = None,
    merge: str = "exact",
    per_leaf: bool = False,
) -> BatchSize:
    """The larger size of :func:`inner_product_test` and :func:`orthogonality_test`.

    Args:
      gradients: As for :func:`norm_test`.
      theta: As for :func:`inner_product_test`.
      nu: As for :func:`orthogonality_test`.
      maximum: As for :func:`norm_test`.
      power_of_two: As for :func:`norm_test`.
      axis_name: As for :func:`norm_test`.
      merge: As for :func:`norm_test`.
      per_leaf: As for :func:`inner_product_test`.

    Returns:
      The :class:`BatchSize`, whose ``variance`` is a pair: of the products, of the residuals.

    Raises:
      ValueError: As :func:`norm_test`.

    Example:
      >>> import jax.numpy as jnp, optim
      >>> gradients = jnp.array([[1.0, 0.0], [1.0, 2.0], [1.0, -2.0]])
      >>> int(optim.batch_size.augmented_test(gradients, theta=0.5, nu=0.5).size)
      16

    References:
      Lau, Liu & Kolar, AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods, 2024,
      https://arxiv.org/abs/2402.11215
    """
    options: Any = dict(maximum=maximum, power_of_two=power_of_two)
    options |= dict(axis_name=axis_name, merge=merge, per_leaf=per_leaf)
    product = inner_product_test(gradients, theta, **options)
    residual = orthogonality_test(gradients, nu, **options)
    size = jnp.maximum(product.size, residual.size)
    return BatchSize(size, (product.variance, residual.variance), product.square_norm)


class _Moments:
    """Means and variances over the examples of a batch, the parts of an axis merged."""

    def __init__(self, gradients: Any, axis_name: str | None, merge: str):
        _checks.choice("merge", merge, MERGES)
        leaves = jax.tree_util.tree_leaves_with_path(gradients)
        lengths = set()
        for path, g in leaves:
            _checks.gradient(path, g)
            lengths.add(jnp.shape(g)[0] if jnp.ndim(g) else 0)
        if len(lengths) != 1 or min(lengths) < 2:
            raise ValueError(
                "gradients must have a leading axis of the same >= 2 examples in all leaves, got "
                f"lengths {sorted(lengths)}"
            )
        self.axis_name, self.authors = axis_name, merge == "authors"
        (self.own,) = lengths
        self.parts = 1 if axis_name is None else jax.lax.axis_size(axis_name)
        self.gradients = [_trees.widen(g)[0].reshape(self.own, -1) for _, g in leaves]
        self.means = [self.averaged(jnp.mean(g, 0)) for g in self.gradients]
        self.square_norm = sum((jnp.sum(m * m) for m in self.means), start=jnp.zeros([]))

    def averaged(self, x: Any) -> Any:
        return x if self.axis_name is None else jax.lax.pmean(x, self.axis_name)

    def sum_of_variances(self, x: jax.Array) -> jax.Array:
        """Of the columns of x [n, d], over the examples of all parts."""
        mean = jnp.mean(x, 0)
        within = self.averaged(jnp.sum((x - mean[None]) ** 2) / self.own)
        between = self.averaged(jnp.sum((mean - self.averaged(mean)) ** 2))
        if self.authors:
            return within * self.own / (self.own - 1) + between
        examples = self.own * self.parts
        return (within + between) * examples / (examples - 1)

    def variance(self) -> jax.Array:
        return sum((self.sum_of_variances(g) for g in self.gradients), start=jnp.zeros([]))

    def of_products(self, per_leaf: bool) -> jax.Array:
        _checks.flag("per_leaf", per_leaf)
        products = [g @ m for g, m in zip(self.gradients, self.means, strict=True)]
        products = products if per_leaf else [sum(products)]
        return sum((self.sum_of_variances(p[:, None]) for p in products), start=jnp.zeros([]))

    def of_residuals(self, per_leaf: bool) -> jax.Array:
        _checks.flag("per_leaf", per_leaf)
        pairs = list(zip(self.gradients, self.means, strict=True))
        products = [g @ m for g, m in pairs]
        squares = [jnp.sum(m * m) for m in self.means]
        if not per_leaf:
            products, squares = [sum(products)] * len(pairs), [self.square_norm] * len(pairs)
        total = jnp.zeros([])
        for (g, m), product, square in zip(pairs, products, squares, strict=True):
            share = product / jnp.where(square > 0, square, 1.0)
            total += self.sum_of_variances(g - share[:, None] * m[None])
        return total


def _size(moments: _Moments, wanted: Any, maximum: int | None, power_of_two: bool) -> jax.Array:
    _checks.flag("power_of_two", power_of_two)
    if maximum is not None:
        _checks.count("maximum", maximum)
    largest = min(2**30 if maximum is None else maximum, 2**30)
    smallest = moments.own * moments.parts
    if power_of_two:
        smallest, largest = 2 ** math.ceil(math.log2(smallest)), 2 ** int(math.log2(largest))
    # NaN stands for 0 / 0: nothing is known of the gradient.
    wanted = jnp.where(wanted >= 0, jnp.minimum(wanted, largest), largest)
    size = jnp.ceil(wanted)
    if power_of_two:
        # By comparison: a logarithm may round a power of two up.
        powers = jnp.asarray([2**i for i in range(31)])
        size = powers[jnp.searchsorted(powers, size.astype(jnp.int32))]
    size = jnp.maximum(size.astype(jnp.int32), smallest)
    return jnp.minimum(size, largest).astype(jnp.int32)
