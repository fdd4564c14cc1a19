r"""Projections onto the sets that constrain ``x``, ``y`` or both.

Each function returns a projection: a pure function of a pytree that keeps its structure, shapes
and dtypes and works under ``jit``, ``vmap`` and differentiation. What can be factored is factored
once, when the projection is built.

.. math::
  P_C(v) = \arg\min_{u \in C} \|u - v\|

``box`` and ``halfspace`` are those of ``optax.projections``, with their arguments checked and
dtypes kept. The others are not, for a reason each: ``ball`` does not overflow for large entries,
and is differentiable at its center; ``simplex`` works along each last axis, where optax's spans
the whole tree; ``l1_ball`` stands on it. ``affine`` (with redundant rows), ``inequalities``,
``polyhedron``, ``svm`` and ``intersection`` are not in optax.

A set that is empty is refused when the projection is built, or called with numbers that can be
read. Bounds may be infinite where that leaves a direction free; a NaN is refused.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from bilevel._polyhedra import at_least_float32, finite, inequalities, matrix_of, polyhedron, svm
from optim import _checks

__all__ = [
    "affine",
    "ball",
    "box",
    "halfspace",
    "inequalities",
    "intersection",
    "joint",
    "l1_ball",
    "polyhedron",
    "product",
    "simplex",
    "svm",
]

Projection = Callable[[Any], Any]


def _like(out: Any, v: Any) -> Any:
    return jax.tree.map(lambda o, p: jnp.asarray(o, jnp.result_type(p)), out, v)


def _traced(*values: Any) -> bool:
    return any(isinstance(value, jax.core.Tracer) for value in values)


def box(low: Any = -np.inf, high: Any = np.inf) -> Projection:
    r"""Returns the projection onto :math:`\{v : l \le v \le u\}`.

    Args:
      low: Lower bounds: a number, or a pytree of arrays like ``v``; ``-inf`` for none.
      high: Upper bounds, likewise; ``inf`` for none.

    Returns:
      A projection of any pytree (like the bounds, where they are pytrees).

    Raises:
      ValueError: If a bound is NaN, a lower bound is above its upper bound, or bounds do not fit
        ``v``.

    Example:
      >>> import jax.numpy as jnp
      >>> from bilevel import projections
      >>> projections.box(0, 1)(jnp.array([-0.5, 0.5, 2.0]))
      Array([0. , 0.5, 1. ], dtype=float32)
    """

    def check(lo, hi):
        if _traced(lo, hi):
            return
        lo, hi = np.asarray(lo), np.asarray(hi)
        if np.any(np.isnan(lo)) or np.any(np.isnan(hi)):
            raise ValueError(f"low and high must not be NaN, got {lo} and {hi}")
        if np.any(lo > hi) or np.any(lo == np.inf) or np.any(hi == -np.inf):
            raise ValueError(f"low must be <= high, got {lo} > {hi}")

    def fit(path, p, a, b):
        try:
            same = np.broadcast_shapes(np.shape(a), np.shape(b), p.shape) == p.shape
        except ValueError:
            same = False
        if not same:
            raise ValueError(
                f"bounds of shapes {np.shape(a)} and {np.shape(b)} do not fit leaf "
                f"{jax.tree_util.keystr(path) or 'root'} of shape {p.shape}"
            )

    def like(v, name, bound):
        structure = jax.tree.structure(v)
        if jax.tree.structure(bound) == structure:
            return bound
        if jax.tree_util.treedef_is_leaf(jax.tree.structure(bound)):
            return jax.tree.map(lambda _: bound, v)
        raise ValueError(
            f"{name} must be one number or of the structure {structure}, "
            f"got {jax.tree.structure(bound)}"
        )

    if jax.tree.structure(low) == jax.tree.structure(high):
        jax.tree.map(check, low, high)

    def project(v):
        v = jax.tree.map(jnp.asarray, v)
        lo, hi = like(v, "low", low), like(v, "high", high)
        jax.tree.map(check, lo, hi)
        jax.tree_util.tree_map_with_path(fit, v, lo, hi)
        return optax.projections.projection_box(v, _like(lo, v), _like(hi, v))

    return project


def ball(radius: float, center: Any = None) -> Projection:
    r"""Returns the projection onto :math:`\{v : \|v - c\|_2 \le r\}`, the norm over the whole tree.

    Args:
      radius: :math:`r > 0`; ``inf`` for the whole space.
      center: Pytree like ``v``; the origin by default.

    Returns:
      A projection of any pytree (like the center, where there is one).

    Raises:
      ValueError: On a radius that is not positive, or a center that is not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from bilevel import projections
      >>> projections.ball(1.0)(jnp.array([3.0, 4.0]))
      Array([0.6, 0.8], dtype=float32)
    """
    _checks.number("radius", radius, 0, open_low=True, infinite=True)
    if not _traced(*jax.tree.leaves(center)):
        jax.tree.map(functools.partial(finite, "center"), center)

    def project(v):
        c = jax.tree.map(jnp.zeros_like, v) if center is None else center
        offset = jax.tree.map(lambda p, q: p - jnp.asarray(q, jnp.result_type(p)), v, c)
        # In units of the radius or the largest entry, so that no square overflows.
        wide = jax.tree.map(at_least_float32, offset)
        largest = optax.tree.norm(wide, ord=jnp.inf)
        bounded = jnp.where(jnp.isinf(radius), largest, radius)
        unit = jax.lax.stop_gradient(jnp.maximum(jnp.maximum(largest, bounded), 1e-30))
        square = optax.tree.norm(jax.tree.map(lambda o: o / unit, wide), squared=True)
        outside = (square > (bounded / unit) ** 2) & ~jnp.isinf(radius)
        # The root of a harmless number inside the ball keeps the derivative finite at the center.
        root = jnp.sqrt(jnp.where(outside, square, 1.0))
        scale = jnp.where(outside, bounded / unit / root, 1.0)

        def pull(p, o, q):
            pulled = jnp.asarray(q, p.dtype) + (scale * o).astype(p.dtype)
            return jnp.where(outside, pulled, p)

        return jax.tree.map(pull, jax.tree.map(jnp.asarray, v), wide, c)

    return project


def simplex(total: float = 1.0) -> Projection:
    r"""Returns the projection onto :math:`\{v \ge 0, \sum_i v_i = s\}`, along each last axis.

    .. math::
      P(v) = \max(v - \tau, 0), \quad
      \tau = \max_j \frac{1}{j} \Big(\sum_{i \le j} v_{(i)} - s\Big)

    with :math:`v_{(1)} \ge v_{(2)} \ge \dots`, by sorting, in float32 at least. An entry of
    ``-inf`` stays out. A leaf without axes counts as one of length 1, so that it becomes s.

    Args:
      total: :math:`s > 0`.

    Returns:
      A projection of any pytree.

    Raises:
      ValueError: On a total that is not positive, and on a leaf with an empty last axis.

    Example:
      >>> import jax.numpy as jnp
      >>> from bilevel import projections
      >>> projections.simplex()(jnp.array([0.5, 0.5, -3.0, 1.0]))
      Array([0.16666..., 0.16666..., 0.        , 0.66666...], dtype=float32)
    """
    _checks.number("total", total, 0, open_low=True)

    def one(path, v):
        if jnp.shape(v)[-1:] == (0,):
            raise ValueError(
                f"leaf {jax.tree_util.keystr(path) or 'root'} of shape {jnp.shape(v)} has an empty "
                "last axis: no simplex"
            )
        return _onto_simplex(jnp.atleast_1d(v), total).reshape(jnp.shape(v))

    return lambda v: jax.tree_util.tree_map_with_path(one, v)


def _onto_simplex(v: jax.Array, total: Any) -> jax.Array:
    wide = at_least_float32(v)
    wide = wide - jnp.max(wide, axis=-1, keepdims=True)  # Along (1, ..., 1): no other projection.
    ordered = -jnp.sort(-wide, axis=-1)
    count = jnp.arange(1, v.shape[-1] + 1, dtype=wide.dtype)
    count = count.reshape((1,) * (v.ndim - 1) + (-1,))
    tau = jnp.max((jnp.cumsum(ordered, axis=-1) - total) / count, axis=-1, keepdims=True)
    return jnp.maximum(wide - tau, 0).astype(v.dtype)


def l1_ball(radius: float) -> Projection:
    r"""Returns the projection onto :math:`\{v : \sum_i |v_i| \le r\}`, over the whole tree.

    .. math::
      P(v) = \mathrm{sign}(v) \odot P_\Delta(|v|) \quad\text{outside, with } \Delta =
      \{u \ge 0, \textstyle\sum_i u_i = r\}

    Args:
      radius: :math:`r > 0`; ``inf`` for the whole space.

    Returns:
      A projection of any pytree.

    Raises:
      ValueError: On a radius that is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from bilevel import projections
      >>> projections.l1_ball(1.0)(jnp.array([1.0, -0.5, 0.1]))
      Array([ 0.75, -0.25,  0.  ], dtype=float32)
    """
    _checks.number("radius", radius, 0, open_low=True, infinite=True)

    def project(v):
        flat, unravel = ravel_pytree(v)
        if not flat.size:
            return v
        wide = at_least_float32(flat)
        bounded = jnp.where(jnp.isinf(radius), 1.0, radius)  # Lest the derivative be NaN.
        pulled = jnp.sign(wide) * _onto_simplex(jnp.abs(wide), bounded)
        return unravel(jnp.where(jnp.sum(jnp.abs(wide)) > radius, pulled, wide).astype(flat.dtype))

    return project


def halfspace(normal: Any, offset: float = 0.0) -> Projection:
    r"""Returns the projection onto :math:`\{v : \langle a, v \rangle \le b\}`.

    Args:
      normal: :math:`a \ne 0`, a pytree like ``v``.
      offset: :math:`b`; ``inf`` for the whole space.

    Returns:
      A projection of pytrees like ``normal``.

    Raises:
      ValueError: On a normal that is zero or not finite, and on an offset of NaN or ``-inf``.

    Example:
      >>> import jax.numpy as jnp
      >>> from bilevel import projections
      >>> projections.halfspace(jnp.array([1.0, 1.0]), 1.0)(jnp.array([2.0, 1.0]))
      Array([1., 0.], dtype=float32)
    """
    square = sum(
        float(np.sum(np.square(np.asarray(a, np.float64)))) for a in jax.tree.leaves(normal)
    )
    if not 0 < square < np.inf:
        raise ValueError(f"normal must be finite and not zero, got the squared norm {square}")
    _checks.number("offset", offset, infinite=True)
    if not _traced(offset) and float(offset) == -np.inf:
        raise ValueError("offset must be a number or inf, got -inf: the set is empty")

    def project(v):
        if jax.tree.map(jnp.shape, v) != jax.tree.map(jnp.shape, normal):
            raise ValueError(
                f"normal must be like v, of shapes {jax.tree.map(jnp.shape, v)}, got "
                f"{jax.tree.map(jnp.shape, normal)}"
            )
        wide = jax.tree.map(at_least_float32, v)  # Lest inner products overflow.
        a = jax.tree.map(lambda p, q: jnp.asarray(q, p.dtype), wide, normal)
        return _like(optax.projections.projection_halfspace(wide, a, offset), v)

    return project


def affine(matrix: Any, rhs: Any = None) -> Callable[..., Any]:
    r"""Returns the projection onto :math:`\{v : A v = b\}`.

    .. math::
      P(v) = v - V V^\top v + A^+ b, \quad A = U S V^\top

    Redundant rows are allowed: the singular value decomposition, computed here once in float64,
    drops singular values below ``max(m, n) eps`` of the largest.

    Args:
      matrix: :math:`A`, shape ``(m, n)``, for ``v`` raveled to ``n`` numbers in the order of
        ``jax.tree.leaves``.
      rhs: :math:`b`, shape ``(m,)``; zero by default.

    Returns:
      ``project(v, rhs=None)``; a ``rhs`` given there replaces the one given here, for sets that
      move with another variable.

    Raises:
      ValueError: On shapes that do not fit, numbers that are not finite, and a ``rhs`` outside of
        the range of ``matrix``: the set is empty. (A traced ``rhs`` is not looked at.)

    Example:
      >>> import jax.numpy as jnp
      >>> from bilevel import projections
      >>> v = projections.affine(jnp.ones((1, 3)))(jnp.array([1.0, 2.0, 6.0]))
      >>> print(np.round(np.asarray(v), 3))
      [-2. -1.  3.]
    """
    a = matrix_of(matrix)
    u, s, vt = np.linalg.svd(a, full_matrices=False)
    rank = int(np.sum(s > max(a.shape) * np.finfo(np.float64).eps * s[:1].max(initial=0.0)))
    u, basis = u[:, :rank], np.ascontiguousarray(vt[:rank])
    pseudoinverse = (basis.T / s[:rank]) @ u.T

    def fitting(b):
        if np.shape(b) != a.shape[:1]:
            raise ValueError(f"rhs must have shape {a.shape[:1]}, got {np.shape(b)}")
        if _traced(b):
            return b
        narrow = jnp.finfo(jnp.result_type(b)).eps if isinstance(b, jax.Array) else 0.0
        values = finite("rhs", b)
        apart = np.linalg.norm(values - u @ (u.T @ values))
        if apart > max(1e-9, 100 * float(narrow)) * max(1.0, float(np.linalg.norm(values))):
            raise ValueError(
                f"rhs must be in the range of matrix, got one at a distance of {apart:.3g}: the "
                "set is empty"
            )
        return b

    shift = None if rhs is None else pseudoinverse @ np.asarray(fitting(rhs), np.float64)

    def project(v, rhs=None):
        flat, unravel = ravel_pytree(v)
        if flat.size != a.shape[1]:
            raise ValueError(f"matrix has {a.shape[1]} columns, but v has {flat.size} numbers")
        wide = at_least_float32(flat)
        rows = jnp.asarray(basis, wide.dtype)
        out = wide - (rows @ wide) @ rows
        if rhs is not None:
            b = jnp.asarray(fitting(rhs), wide.dtype)
            out = out + jnp.asarray(pseudoinverse, wide.dtype) @ b
        elif shift is not None:
            out = out + jnp.asarray(shift, wide.dtype)
        return unravel(out.astype(flat.dtype))

    return project


def intersection(*projections: Projection, iterations: int = 200) -> Projection:
    r"""Returns the projection onto an intersection of convex sets, by Dykstra's algorithm.

    .. math::
      v_i \leftarrow P_i(v_{i-1} + p_i), \quad p_i \leftarrow v_{i-1} + p_i - v_i
      \qquad (i = 1, \dots, m, \text{ in turn})

    It converges to the projection, and not only into the set; linearly for polyhedral sets, where
    :func:`inequalities` is exact. The result lies in the last set, and in the others up to what
    the last iteration left; outside of ``jit`` much of that, as of sets without a common point,
    is a warning. Derivatives go through all iterations.

    Args:
      *projections: Projections of the same pytree, at least one.
      iterations: Rounds over all sets, >= 1.

    Returns:
      A projection of that pytree.

    Raises:
      ValueError: Without projections, or on a number of iterations below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from bilevel import projections
      >>> project = projections.intersection(projections.ball(1.0), projections.box(0.0, 1.0))
      >>> print(np.round(np.asarray(project(jnp.array([-1.0, 2.0]))), 3))
      [0. 1.]

    References:
      Boyle, Dykstra, `A Method for Finding Projections onto the Intersection of Convex Sets in
      Hilbert Spaces <https://doi.org/10.1007/978-1-4613-9940-7_3>`_, 1986
    """
    if not projections or not all(callable(p) for p in projections):
        raise ValueError(f"projections must be functions, at least one, got {projections!r}")
    _checks.count("iterations", iterations)

    def project(v):
        v = jax.tree.map(jnp.asarray, v)

        def round_(carry, _):
            v, increments = carry
            kept = []
            for onto, p in zip(projections, increments, strict=True):
                moved = optax.tree.add(v, p)
                v = onto(moved)
                kept.append(optax.tree.sub(moved, v))
            return (v, kept), None

        zeros = [jax.tree.map(jnp.zeros_like, v) for _ in projections]
        out = jax.lax.scan(round_, (v, zeros), None, length=iterations)[0][0]
        for i, onto in enumerate(projections):
            apart = optax.tree.norm(optax.tree.sub(out, onto(out)))
            if not _traced(apart) and apart > 1e-3 * max(1.0, float(optax.tree.norm(out))):
                warnings.warn(
                    f"the result is {float(apart):.3g} outside of set {i}: the sets have no common "
                    "point, or more iterations are needed",
                    stacklevel=2,
                )
        return out

    return project


def product(projections: Any) -> Projection:
    """Returns the projection onto a product of sets, one for each part of a pytree.

    Args:
      projections: A pytree whose leaves are projections, or ``None`` for no constraint. It is a
        prefix of ``v``: each projects the subtree at its place.

    Returns:
      A projection of pytrees of which ``projections`` is a prefix.

    Example:
      >>> import jax.numpy as jnp
      >>> from bilevel import projections
      >>> p = projections.product({"a": projections.box(0, 1), "b": None})
      >>> p({"a": jnp.array(2.0), "b": jnp.array(2.0)})
      {'a': Array(1., dtype=float32...), 'b': Array(2., dtype=float32...)}
    """

    def is_leaf(p):
        return p is None or callable(p)

    def project(v):
        return jax.tree.map(
            lambda p, part: part if p is None else p(part), projections, v, is_leaf=is_leaf
        )

    return project


def joint(projection: Projection) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Returns ``(x, y) -> projection((x, y))``, the form that ``Problem(project_xy=)`` takes.

    Args:
      projection: A projection of pairs.

    Returns:
      A function of two arguments.

    Example:
      >>> import jax.numpy as jnp
      >>> from bilevel import projections
      >>> project_xy = projections.joint(projections.halfspace((1.0, 1.0), 2.0))
      >>> project_xy(jnp.array(3.0), jnp.array(1.0))
      (Array(2., dtype=float32...), Array(0., dtype=float32...))
    """
    return lambda x, y: projection((x, y))
