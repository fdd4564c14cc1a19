"""States split over a mesh: which leaf along which axis, by rules of paths."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from optim import _checks, _paths

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
      ValueError: A leaf belongs to no rule or is no array, a ``PartitionSpec`` does not fit its
        leaf, a rule is none or is not used (it matches no path, or only those of the rules before
        it; one that matches everything may come last), or ``LARGEST`` splits nothing at all though
        there are leaves that are large enough.

    Example:
      >>> import jax, jax.numpy as jnp, optim
      >>> params = {"embedding": jnp.ones((1000, 64)), "bias": jnp.ones(64)}
      >>> found = optim.parallel.specs(params, 8)
      >>> found["embedding"], found["bias"]
      (P('data', None), P())
    """
    _checks.count("devices", devices)
    return _specs(tree, rules, axis_name, {axis_name: devices}, whole_mesh=False)


def _specs(tree, rules, axis_name, sizes, *, whole_mesh) -> Any:
    """The specs for axes of these sizes; ``whole_mesh`` says that the mesh has no others."""
    compiled = _compiled(rules)
    used, unmatched, split, large = set(), [], 0, 0

    def spec_of(name, leaf):
        nonlocal split, large
        shape = _shape(name, leaf)
        matching = [i for i, (pattern, _) in enumerate(compiled) if pattern.search(name)]
        if not matching:
            unmatched.append(name)
            return PartitionSpec()
        used.add(matching[0])
        choice = compiled[matching[0]][1]
        if choice is None:
            return PartitionSpec()
        if isinstance(choice, PartitionSpec):
            _check_spec(name, shape, choice, sizes, whole_mesh)
            return choice
        found = _largest(shape, sizes[axis_name], axis_name)
        if math.prod(shape) >= max(_SMALL, sizes[axis_name]):
            large += 1
            split += any(found)
        return found

    found = [spec_of(name, leaf) for name, leaf in _named(tree)]
    if unmatched:
        raise ValueError(f"no rule matches {', '.join(unmatched)}; a last rule ('', None) would")
    _check_all_used(compiled, used, tree)
    if large and not split:
        raise ValueError(
            f"no leaf has an axis that {sizes[axis_name]} devices divide; use fewer of them"
        )
    return jax.tree.unflatten(jax.tree.structure(tree), found)


def _named(tree) -> list[tuple[str, Any]]:
    """The leaves with their names, which end above the variables of Flax NNX."""
    return [(_name(path), leaf) for path, leaf in _paths.with_paths(tree)]


def _largest(shape, devices, axis_name) -> PartitionSpec:
    """The largest axis that divides, the first of equal ones; small leaves stay whole."""
    axes = [i for i, n in enumerate(shape) if n % devices == 0]
    if math.prod(shape) < max(_SMALL, devices) or not axes:
        return PartitionSpec()
    best = max(axes, key=lambda i: shape[i])
    return PartitionSpec(*(axis_name if i == best else None for i in range(len(shape))))


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _shape(name, leaf) -> tuple[int, ...]:
    if not hasattr(leaf, "dtype") and not isinstance(leaf, bool | int | float | complex):
        raise ValueError(
            f"{name} must be an array, got {leaf!r}: keep functions and names out of the tree "
            "(equinox.partition and nnx.split take a model apart)"
        )
    return jnp.shape(leaf)


def _compiled(rules) -> list[tuple[re.Pattern[str], Any]]:
    if isinstance(rules, str | Mapping) or not all(
        isinstance(rule, tuple | list) and len(rule) == 2 for rule in rules
    ):
        raise ValueError(f"rules must be pairs (regex, choice), got {rules!r}")
    compiled = []
    for pattern, choice in rules:
        try:
            compiled.append((re.compile(pattern), choice))
        except (re.error, TypeError) as error:
            raise ValueError(f"rules must have regexes, got {pattern!r}: {error}") from error
        if choice is not None and choice != LARGEST and not isinstance(choice, PartitionSpec):
            raise ValueError(
                f"rules must choose a PartitionSpec, None or {LARGEST!r}, got {choice!r}"
            )
    return compiled


def _check_all_used(compiled, used, tree) -> None:
    """A rule that splits nothing is mistyped, or stands behind one that takes its leaves."""

    def left_out(x):  # What a masked state has in place of a leaf.
        return x is None or isinstance(x, optax.MaskedNode)

    paths = jax.tree_util.tree_leaves_with_path(tree, is_leaf=left_out)
    if all(jnp.ndim(x) == 0 for _, x in paths if not left_out(x)):
        return  # Such as the state of SGD, which has nothing of the parameters.
    names = [_name(_paths.of_variable(path)) for path, _ in paths]
    for i, (pattern, _) in enumerate(compiled):
        if i in used or pattern.search(""):
            continue
        found = [name for name in names if pattern.search(name)]
        if not found:
            raise ValueError(
                f"the rule {pattern.pattern!r} matches none of {', '.join(names[:8])}"
                + ", ..." * (len(names) > 8)
            )
        if any(other.search(name) for name in found for other, _ in compiled[:i]):
            raise ValueError(
                f"the rule {pattern.pattern!r} comes after one that takes {found[0]}: the first "
                "that matches counts"
            )


def _axes(part) -> tuple[str, ...]:
    """The names of mesh axes in an entry of a ``PartitionSpec``."""
    return tuple(n for n in (part if isinstance(part, tuple) else (part,)) if isinstance(n, str))


def _check_spec(name, shape, spec, sizes, whole_mesh) -> None:
    if len(spec) > len(shape):
        raise ValueError(f"the rule of {name} has {len(spec)} axes, the leaf is {shape}")
    named = [axis for part in spec for axis in _axes(part)]
    for axis in named:
        if whole_mesh and axis not in sizes:
            raise ValueError(f"the rule of {name} names the axis {axis!r}, the mesh has {[*sizes]}")
    if len({*named}) < len(named):
        raise ValueError(f"the rule of {name} names an axis twice, {spec}")
    for size, part in zip(shape, spec, strict=False):
        parts = math.prod(sizes.get(axis, 1) for axis in _axes(part))
        if size % parts:
            raise ValueError(f"{name} {shape} has no {parts} equal parts along {size}")


def _same(x):
    return x


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
    if not isinstance(mesh, Mesh):
        raise ValueError(f"mesh must be a jax.sharding.Mesh, got {mesh!r}")
    if axis_name not in mesh.axis_names:
        raise ValueError(f"mesh must have an axis {axis_name!r}, got {mesh.axis_names}")
    found = _specs(tree, rules, axis_name, dict(mesh.shape), whole_mesh=True)

    def put(leaf, spec):
        sharding, dtype = NamedSharding(mesh, spec), jnp.result_type(leaf)
        if not mesh.is_multi_process or jnp.issubdtype(dtype, jax.dtypes.prng_key):
            return jax.device_put(leaf, sharding)
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.jit(_same, out_shardings=sharding)(leaf)
        whole = np.asarray(leaf, dtype)
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
    chosen = jax.tree.leaves(specs(tree, devices, rules), is_leaf=_is_spec)
    found = []
    for (name, leaf), spec in zip(_named(tree), chosen, strict=True):
        parts = devices if any("data" in _axes(part) for part in spec) else 1
        size = math.prod(leaf.shape) * leaf.dtype.itemsize // parts
        found.append(Share(name, tuple(leaf.shape), spec, size))
    return found


def _is_spec(x) -> bool:
    return type(x) is PartitionSpec
