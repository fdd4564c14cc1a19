"""One step for one device or many: means over a named axis, and states split over a mesh.

A step that takes ``axis_name`` runs inside the user's own ``jax.pmap``, ``jax.shard_map`` or
``jax.vmap`` on its share of the batch. What it must average are gradients and metrics; the
functions here are the identity when ``axis_name`` is ``None``.

Where a model does not fit on one device, :func:`shard` splits parameters and optimizer states over
the mesh; the step stays as it is, and the compiler gathers what it needs.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from optim import _checks

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

#: The choice of a rule to split the largest axis that the number of devices divides.
LARGEST = "largest"
# Smaller leaves stay whole: a gather costs more than they take.
_SMALL = 1024

Rules = Sequence[tuple[str, Any]]


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


def specs(
    tree: Any, devices: int, rules: Rules = (("", LARGEST),), *, axis_name: str = "data"
) -> Any:
    """Returns how each leaf of a tree is split over one axis of a mesh.

    A leaf belongs to the first rule whose regex is found in its path, such as
    ``"layers_0/kernel"``. The moments of an optimizer end in the same path and have the same shape,
    so one set of rules serves parameters and states alike, a whole training state included.

    Args:
      tree: Pytree of arrays or of ``jax.ShapeDtypeStruct``.
      devices: Number of devices along the axis.
      rules: Pairs ``(regex, choice)``. A choice is a ``PartitionSpec``, ``None`` (whole on every
        device), or :data:`LARGEST`: the largest axis that ``devices`` divides, the first of equal
        ones; leaves of fewer than 1024 numbers, and those without such an axis, stay whole.
      axis_name: Name of the axis.

    Returns:
      A tree of ``PartitionSpec``.

    Raises:
      ValueError: A leaf belongs to no rule, a ``PartitionSpec`` does not fit its leaf, a regex is
        none, or ``LARGEST`` splits nothing at all though there are leaves that are large enough.

    Example:
      >>> import jax, jax.numpy as jnp, optim
      >>> params = {"embedding": jnp.ones((1000, 64)), "bias": jnp.ones(64)}
      >>> found = optim.parallel.specs(params, 8)
      >>> found["embedding"], found["bias"]
      (P('data', None), P())
    """
    _checks.count("devices", devices)
    compiled = []
    for pattern, choice in rules:
        try:
            compiled.append((re.compile(pattern), choice))
        except re.error as error:
            raise ValueError(f"rules must have regexes, got {pattern!r}: {error}") from error
    unmatched, split, large = [], 0, 0

    def spec_of(path, leaf):
        nonlocal split, large
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        shape = jnp.shape(leaf)
        choices = [choice for pattern, choice in compiled if pattern.search(name)]
        if not choices:
            unmatched.append(name)
            return PartitionSpec()
        choice = choices[0]
        if choice is None:
            return PartitionSpec()
        if isinstance(choice, PartitionSpec):
            _check_spec(name, shape, choice, devices, axis_name)
            return choice
        if choice != LARGEST:
            raise ValueError(
                f"rules must choose a PartitionSpec, None or {LARGEST!r}, got {choice!r}"
            )
        if math.prod(shape) < max(_SMALL, devices):
            return PartitionSpec()
        large += 1
        axes = [i for i, n in enumerate(shape) if n % devices == 0]
        if not axes:
            return PartitionSpec()
        split += 1
        best = max(axes, key=lambda i: shape[i])
        return PartitionSpec(*(axis_name if i == best else None for i in range(len(shape))))

    found = jax.tree_util.tree_map_with_path(spec_of, tree)
    if unmatched:
        raise ValueError(f"no rule matches {', '.join(unmatched)}; a last rule ('', None) would")
    if large and not split:
        raise ValueError(f"no leaf has an axis that {devices} devices divide; use fewer of them")
    return found


def _check_spec(name, shape, spec, devices, axis_name) -> None:
    if len(spec) > len(shape):
        raise ValueError(f"the rule of {name} has {len(spec)} axes, the leaf is {shape}")
    for size, part in zip(shape, spec, strict=False):
        names = part if isinstance(part, tuple) else (part,)
        if axis_name in names and size % devices:
            raise ValueError(f"{name} {shape} has no {devices} equal parts along {size}")


def shard(
    tree: Any, mesh: Mesh, rules: Rules = (("", LARGEST),), *, axis_name: str = "data"
) -> Any:
    """Splits the leaves of a tree over a mesh, so that no device holds all of them.

    A step under ``jax.jit`` needs no change. In :func:`optim.loop.run` the state keeps the layout
    that it comes with; elsewhere give ``jax.jit`` the same ``out_shardings``.

    Args:
      tree: Parameters, an optimizer state, or a whole training state.
      mesh: A mesh with the axis ``axis_name``, such as :func:`data_mesh`.
      rules: As for :func:`specs`.
      axis_name: As for :func:`specs`.

    Returns:
      The tree, its leaves placed on the mesh.

    Raises:
      ValueError: As :func:`specs`, or the mesh has no such axis.

    Example:
      >>> import jax, jax.numpy as jnp, optax, optim
      >>> mesh = optim.parallel.data_mesh(jax.devices()[:1])
      >>> params = optim.parallel.shard({"kernel": jnp.ones((64, 32))}, mesh)
      >>> state = optim.parallel.shard(optax.adam(1e-3).init(params), mesh)
      >>> state[0].mu["kernel"].sharding == params["kernel"].sharding
      True
    """
    if axis_name not in mesh.axis_names:
        raise ValueError(f"mesh must have an axis {axis_name!r}, got {mesh.axis_names}")
    found = specs(tree, mesh.shape[axis_name], rules, axis_name=axis_name)

    def put(leaf, spec):
        sharding = NamedSharding(mesh, spec)
        if not mesh.is_multi_process or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.device_put(leaf, sharding)
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return jax.tree.map(put, tree, found)


class Share(NamedTuple):
    """What one device holds of a leaf.

    Attributes:
      path: Of the leaf, its names joined by ``/``.
      shape: Of the whole leaf.
      spec: How it is split; an empty one is whole on every device.
      size: Bytes on one device.
    """

    path: str
    shape: tuple[int, ...]
    spec: PartitionSpec
    size: int


def shares(tree: Any, devices: int, rules: Rules = (("", LARGEST),)) -> list[Share]:
    """Returns what each device would hold of a tree; nothing is allocated.

    Args:
      tree: Pytree of arrays or of ``jax.ShapeDtypeStruct``, as from ``jax.eval_shape``.
      devices: Number of devices.
      rules: As for :func:`specs`.

    Returns:
      One entry per leaf, in the order of the leaves.

    Raises:
      ValueError: As :func:`specs`.

    Example:
      >>> import jax, jax.numpy as jnp, optim
      >>> leaf = jax.ShapeDtypeStruct((1000, 64), jnp.float32)
      >>> optim.parallel.shares({"w": leaf}, 8)[0].size
      32000
    """
    found = []
    for (path, leaf), spec in zip(
        jax.tree_util.tree_leaves_with_path(tree),
        jax.tree.leaves(specs(tree, devices, rules), is_leaf=lambda s: type(s) is PartitionSpec),
        strict=True,
    ):
        parts = devices if any(part is not None for part in spec) else 1
        size = math.prod(leaf.shape) * leaf.dtype.itemsize // parts
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        found.append(Share(name, tuple(leaf.shape), spec, size))
    return found
