"""One step for one device or many: means over a named axis, and states split over a mesh.

A step that takes ``axis_name`` runs inside the user's own ``jax.pmap``, ``jax.shard_map`` or
``jax.vmap`` on its share of the batch. What it must average are gradients and metrics; the
functions here are the identity when ``axis_name`` is ``None``.

Where a model does not fit on one device, :func:`shard` splits parameters and optimizer states over
the mesh; the step stays as it is, and the compiler gathers what it needs.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from optim._sharding import LARGEST, Share, shard, shares, specs

__all__ = [
    "LARGEST",
    "Share",
    "data_mesh",
    "grad",
    "pmean",
    "shard",
    "shares",
    "specs",
    "value_and_grad",
    "vary",
]


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh of one axis, ``'data'``, over which a batch is split.

    Args:
      devices: Devices of the mesh; by default all devices of all processes.

    Returns:
      The mesh, with the axis name ``'data'``.

    Example:
      >>> import optim
      >>> optim.parallel.data_mesh().axis_names
      ('data',)
    """
    return Mesh(np.array(jax.devices() if devices is None else devices), ("data",))


def pmean(tree: Any, axis_name: str | None) -> Any:
    """Averages a tree over a mapped axis.

    Args:
      tree: Pytree of arrays, such as gradients or metrics of this device's share of the batch.
      axis_name: Name of the axis of the enclosing ``pmap``, ``shard_map`` or ``vmap``, or ``None``.

    Returns:
      The mean over ``axis_name``, equal on all its devices; ``tree`` itself for ``None``.

    Example:
      >>> import jax, jax.numpy as jnp, optim
      >>> mean = lambda loss: optim.parallel.pmean({"loss": loss}, "data")
      >>> jax.vmap(mean, axis_name="data")(jnp.array([1.0, 3.0]))
      {'loss': Array([2., 2.], dtype=float32)}
    """
    return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def vary(tree: Any, axis_name: str | None) -> Any:
    """Marks a tree as this device's own, so that its gradient is this device's own too.

    ``shard_map`` sums the gradient of a replicated input over the axis by itself, so that a mean
    afterwards changes nothing and gradients come out as many times too large as there are devices.
    The gradient with respect to a marked value is that of this device alone, as under ``pmap``.

    Args:
      tree: Pytree of arrays, such as parameters.
      axis_name: Name of the axis of the enclosing ``shard_map``; for that of a ``vmap``, whose
        gradients need no mark, and for ``None`` nothing is marked.

    Returns:
      The same values, varying over ``axis_name``.

    Example:
      >>> import jax, jax.numpy as jnp, optim
      >>> from jax.sharding import PartitionSpec as P
      >>> mesh = optim.parallel.data_mesh(jax.devices()[:1])
      >>> def slope(w, x):
      ...   grad = jax.grad(lambda w: jnp.sum(w * x))(optim.parallel.vary(w, "data"))
      ...   return optim.parallel.pmean(grad, "data")
      >>> w, x = jnp.float32(1), jnp.float32([2.0])
      >>> jax.shard_map(slope, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())(w, x)
      Array(2., dtype=float32)
    """
    if axis_name not in jax.sharding.get_abstract_mesh().manual_axes:  # None, or jax.vmap's.
        return tree

    def own(x):
        try:
            return jax.lax.pcast(x, axis_name, to="varying")
        except ValueError:  # Already varying.
            return x

    return jax.tree.map(own, tree)


def value_and_grad(
    fun: Callable[..., Any],
    argnums: int | tuple[int, ...] = 0,
    *,
    has_aux: bool = False,
    axis_name: str | None = None,
) -> Callable[..., Any]:
    r"""Like ``jax.value_and_grad``, averaged over ``axis_name``.

    .. math::
      \left(\tfrac1N\sum_{i=1}^N f_i(x),\; \tfrac1N\sum_{i=1}^N \nabla f_i(x)\right)

    where :math:`f_i` is ``fun`` on the batch share of device :math:`i`.

    Args:
      fun: Scalar function; with ``has_aux`` it returns ``(value, aux)``.
      argnums: Which arguments to differentiate.
      has_aux: Whether ``fun`` returns auxiliary data. It is averaged too.
      axis_name: Name of the mapped axis of the enclosing ``pmap``, ``shard_map`` or ``vmap``;
        ``None`` outside of one.

    Returns:
      A function with the arguments of ``fun`` that returns ``(value, gradient)``.

    Example:
      >>> import jax.numpy as jnp, optim
      >>> optim.parallel.value_and_grad(lambda w: (w**2).sum())(jnp.array([1.0, 2.0]))
      (Array(5., dtype=float32), Array([2., 4.], dtype=float32))
    """
    inner = jax.value_and_grad(fun, argnums, has_aux=has_aux)
    if axis_name is None:
        return inner
    positions = (argnums,) if isinstance(argnums, int) else argnums

    def averaged(*args, **kwargs):
        args = tuple(vary(a, axis_name) if i in positions else a for i, a in enumerate(args))
        return pmean(inner(*args, **kwargs), axis_name)

    return averaged


def grad(
    fun: Callable[..., Any],
    argnums: int | tuple[int, ...] = 0,
    *,
    axis_name: str | None = None,
) -> Callable[..., Any]:
    """Like ``jax.grad``, averaged over ``axis_name``.

    Args:
      fun: Scalar function.
      argnums: Which arguments to differentiate.
      axis_name: As for :func:`value_and_grad`.

    Returns:
      A function with the arguments of ``fun`` that returns the gradient.

    Example:
      >>> import jax.numpy as jnp, optim
      >>> optim.parallel.grad(lambda w: (w**2).sum())(jnp.array([1.0, 2.0]))
      Array([2., 4.], dtype=float32)
    """
    vg = value_and_grad(fun, argnums, axis_name=axis_name)
    return lambda *args, **kwargs: vg(*args, **kwargs)[1]
