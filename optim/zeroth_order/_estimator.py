"""What a gradient estimator is, and how a loss meets one."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optim import _checks
from optim.parallel import pmean

__all__ = ["Estimator", "value_and_grad"]


class Estimator(NamedTuple):
    """A way to estimate a gradient; a pure function of (key, step).

    Attributes:
      estimate: ``estimate(f, params, key, step) -> ((value, aux), gradient)`` for
        ``f(params) -> (value, aux)``. The gradient has the structure and dtypes of ``params``.
      evaluations: ``evaluations(params)``: forward passes of one estimate, a Python number. A
        forward pass with a tangent or with a gradient counts as two, as it costs about that.
    """

    estimate: Callable[[Callable[[Any], Any], Any, jax.Array, Any], tuple[tuple[Any, Any], Any]]
    evaluations: Callable[[Any], int]


def value_and_grad(
    loss: Callable[..., Any],
    estimator: Estimator,
    has_aux: bool = False,
    *,
    axis_name: str | None = None,
) -> Callable[..., Any]:
    r"""Like ``jax.value_and_grad``, with an estimate in place of the gradient.

    What it returns stands where gradients stand: before any optax chain.

    Args:
      loss: ``loss(params, batch) -> value``, a real scalar; with ``has_aux`` ``(value, aux)``.
      estimator: :func:`rge`, :func:`cge`, :func:`forward_gradient`, :func:`sign`,
        :func:`blockwise`, :func:`sparse` or :func:`hybrid`.
      has_aux: Whether ``loss`` returns auxiliary data. Returned is that of the last evaluation,
        which most estimators make beside ``params``.
      axis_name: Name of the mapped axis of the enclosing ``pmap``, ``shard_map`` or ``vmap``:
        values (and auxiliary data) are averaged over it. The key must be equal on all devices.
        Under ``jax.jit`` over a mesh nothing is needed.

    Returns:
      ``f(params, batch, key, step=0) -> (value, gradient)``, with ``has_aux`` ``((value, aux),
      gradient)``. Two-sided estimators give the mean of the values that they evaluate, the others
      the value at ``params``. ``step`` is used by :func:`sparse` alone.

    Raises:
      ValueError: If ``estimator`` is none, the loss is no real scalar, or a leaf of ``params`` is
        no real floating-point array (by its path).

    Example:
      >>> import jax, jax.numpy as jnp, optim
      >>> vg = optim.zeroth_order.value_and_grad(
      ...     lambda w, batch: jnp.sum((w - batch) ** 2), optim.zeroth_order.cge(central=True)
      ... )
      >>> _, gradient = jax.jit(vg)(jnp.array([1.0, 2.0]), jnp.zeros(2), jax.random.key(0))
      >>> gradient.round(2)
      Array([2., 4.], dtype=float32)
    """
    if not isinstance(estimator, Estimator):
        raise ValueError(
            f"estimator must be one of optim.zeroth_order's, rge() or another, got {estimator!r}"
        )

    def estimated(params, batch, key, step=0):
        check_params(params)
        params = jax.tree.map(jnp.asarray, params)

        def f(params):
            out = loss(params, batch)
            value, aux = out if has_aux else (out, None)
            check_value(value)
            return pmean((value, aux), axis_name)

        (value, aux), gradient = estimator.estimate(f, params, key, step)
        return ((value, aux) if has_aux else value), gradient

    return estimated


def check_params(params: Any) -> None:
    """Raises ``ValueError`` with the path of a leaf that cannot be perturbed."""

    def check(path, leaf):
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(
                f"leaf {jax.tree_util.keystr(path)} is {dtype}: only floating-point leaves can be "
                "perturbed; close over the others"
            )

    jax.tree_util.tree_map_with_path(check, params)


def check_value(value: Any) -> None:
    """Raises ``ValueError`` unless ``value`` is a real scalar."""
    dtype, shape = jnp.result_type(value), jnp.shape(value)
    if shape or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"loss must return a real scalar, got {dtype} of shape {shape}")


def check_mu(mu: Any) -> None:
    """Raises ``ValueError`` unless ``mu`` is a positive number."""
    _checks.number("mu", mu, 0, open_low=True)


def warn_if_lost(mu: Any, params: Any) -> None:
    """Warns of leaves whose dtype cannot hold a number near 1 moved by ``mu``."""
    if isinstance(mu, jax.core.Tracer):
        return

    def check(path, leaf):
        spacing = float(jnp.finfo(jnp.result_type(leaf)).eps)
        if mu < spacing:
            warnings.warn(
                f"mu={mu} is lost in {jnp.result_type(leaf)} (spacing {spacing:.1e} at 1) at leaf "
                f"{jax.tree_util.keystr(path)}: take mu >= {4 * spacing:.1e}, or float32",
                stacklevel=2,
            )

    jax.tree_util.tree_map_with_path(check, params)


def moved(params: Any, direction: Any, distance: Any) -> Any:
    """Returns ``params + distance * direction`` in the dtypes of ``params``."""
    return jax.tree.map(
        lambda p, z: (p + jnp.asarray(distance, z.dtype) * z).astype(p.dtype), params, direction
    )
