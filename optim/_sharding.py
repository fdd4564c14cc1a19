"""States split over a mesh: which leaf along which axis, by rules of paths."""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from optim import _checks

#: The choice of a rule to split the largest axis that the number of devices divides.
LARGEST = "largest"
# Smaller leaves stay whole: a gather costs more than they take.
_SMALL = 1024

Rules = Sequence[tuple[str, Any]]


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
