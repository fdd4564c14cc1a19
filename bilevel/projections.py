r"""Projections onto the sets that constrain ``x``, ``y`` or both.

Each function returns a projection: a pure function of a pytree that keeps its structure, shapes
and dtypes and works under ``jit``, ``vmap`` and differentiation. What can be factored is factored
once, when the projection is built.

.. math::
  P_C(v) = \arg\min_{u \in C} \|u - v\|
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from optim import _checks

__all__ = [
    "affine",
    "ball",
    "box",
    "halfspace",
    "joint",
    "polyhedron",
    "product",
    "simplex",
    "svm",
]

Projection = Callable[[Any], Any]


def box(low: Any = -np.inf, high: Any = np.inf) -> Projection:
    r"""Returns the projection onto :math:`\{v : l \le v \le u\}`.

    Args:
      low: Lower bounds: a number, or a pytree of arrays like ``v``.
      high: Upper bounds, likewise.

    Raises:
      ValueError: If a lower bound is above its upper bound, or bounds do not fit ``v``.

    Example:
      >>> import jax.numpy as jnp
      >>> from bilevel import projections
      >>> projections.box(0, 1)(jnp.array([-0.5, 0.5, 2.0]))
      Array([0. , 0.5, 1. ], dtype=float32)
    """

    def check(lo, hi):
        traced = isinstance(lo, jax.core.Tracer) or isinstance(hi, jax.core.Tracer)
        if not traced and np.any(np.asarray(lo) > np.asarray(hi)):
            raise ValueError(f"low must be <= high, got {lo} > {hi}")

    if jax.tree.structure(low) == jax.tree.structure(high):
        jax.tree.map(check, low, high)

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

    def project(v):
        def clip(path, p, a, b):
            out = jnp.clip(p, jnp.asarray(a, p.dtype), jnp.asarray(b, p.dtype))
            if out.shape != p.shape:
                raise ValueError(
                    f"bounds of shapes {jnp.shape(a)} and {jnp.shape(b)} do not fit leaf "
                    f"{jax.tree_util.keystr(path) or 'root'} of shape {p.shape}"
                )
            return out

        v, lo, hi = jax.tree.map(jnp.asarray, v), like(v, "low", low), like(v, "high", high)
        jax.tree.map(check, lo, hi)
        return jax.tree_util.tree_map_with_path(clip, v, lo, hi)

    return project


def ball(radius: float, center: Any = None) -> Projection:
    r"""Returns the projection onto :math:`\{v : \|v - c\|_2 \le r\}`, the norm over the whole tree.

    Args:
      radius: :math:`r > 0`.
      center: Pytree like ``v``; the origin by default.

    Example:
      >>> import jax.numpy as jnp
      >>> from bilevel import projections
      >>> projections.ball(1.0)(jnp.array([3.0, 4.0]))
      Array([0.6, 0.8], dtype=float32)
    """
    _checks.number("radius", radius, 0, open_low=True, infinite=True)

    def project(v):
        c = jax.tree.map(jnp.zeros_like, v) if center is None else center
        offset = jax.tree.map(lambda p, q: p - jnp.asarray(q, p.dtype), v, c)
        # In units of the radius or the largest entry, so that no square overflows.
        wide = jax.tree.map(lambda o: o.astype(jnp.promote_types(o.dtype, jnp.float32)), offset)
        unit = jax.lax.stop_gradient(jnp.maximum(optax.tree.norm(wide, ord=jnp.inf), radius))
        square = optax.tree.norm(jax.tree.map(lambda o: o / unit, wide), squared=True)
        outside = square > (radius / unit) ** 2
        # The root of a harmless number inside the ball keeps the derivative finite at the center.
        root = jnp.sqrt(jnp.where(outside, square, 1.0))
        scale = jnp.where(outside, radius / unit / root, 1.0)

        def pull(p, o, q):
            pulled = jnp.asarray(q, p.dtype) + (scale * o).astype(p.dtype)
            return jnp.where(outside, pulled, p)

        return jax.tree.map(pull, v, wide, c)

    return project


def simplex(total: float = 1.0) -> Projection:
    r"""Returns the projection onto :math:`\{v \ge 0, \sum_i v_i = s\}`, along each last axis.

    .. math::
      P(v) = \max(v - \tau, 0), \quad
      \tau = \max_j \frac{1}{j} \Big(\sum_{i \le j} v_{(i)} - s\Big)

    with :math:`v_{(1)} \ge v_{(2)} \ge \dots`, by sorting.

    Args:
      total: :math:`s > 0`.

    Example:
      >>> import jax.numpy as jnp
      >>> from bilevel import projections
      >>> projections.simplex()(jnp.array([0.5, 0.5, -3.0, 1.0]))
      Array([0.16666..., 0.16666..., 0.        , 0.66666...], dtype=float32)
    """
    _checks.number("total", total, 0, open_low=True)

    def one(v):
        v = v - jnp.max(v, axis=-1, keepdims=True)  # Along (1, ..., 1): no other projection.
        ordered = -jnp.sort(-v, axis=-1)
        count = jnp.arange(1, v.shape[-1] + 1, dtype=v.dtype)
        count = count.reshape((1,) * (v.ndim - 1) + (-1,))
        tau = jnp.max((jnp.cumsum(ordered, axis=-1) - total) / count, axis=-1, keepdims=True)
        return jnp.maximum(v - tau, 0)

    return lambda v: jax.tree.map(one, v)


def halfspace(normal: Any, offset: float = 0.0) -> Projection:
    r"""Returns the projection onto :math:`\{v : \langle a, v \rangle \le b\}`.

    Args:
      normal: :math:`a \ne 0`, a pytree like ``v``.
      offset: :math:`b`.

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

    def project(v):
        a = jax.tree.map(lambda p, q: jnp.asarray(q, p.dtype), v, normal)
        t = jnp.maximum(optax.tree.vdot(a, v) - offset, 0) / square
        return jax.tree.map(lambda p, q: p - jnp.asarray(t * q, p.dtype), v, a)

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

    Example:
      >>> import jax.numpy as jnp
      >>> from bilevel import projections
      >>> v = projections.affine(jnp.ones((1, 3)))(jnp.array([1.0, 2.0, 6.0]))
      >>> print(np.round(np.asarray(v), 3))
      [-2. -1.  3.]
    """
    a = np.asarray(matrix, np.float64)
    if a.ndim != 2:
        raise ValueError(f"matrix must have two axes, got shape {a.shape}")
    u, s, vt = np.linalg.svd(a, full_matrices=False)
    rank = int(np.sum(s > max(a.shape) * np.finfo(np.float64).eps * s[:1].max(initial=0.0)))
    basis = np.ascontiguousarray(vt[:rank])
    pseudoinverse = (basis.T / s[:rank]) @ u[:, :rank].T

    def fitting(b):
        if jnp.shape(b) != a.shape[:1]:
            raise ValueError(f"rhs must have shape {a.shape[:1]}, got {jnp.shape(b)}")
        return b

    shift = None if rhs is None else pseudoinverse @ fitting(np.asarray(rhs, np.float64))

    def project(v, rhs=None):
        flat, unravel = ravel_pytree(v)
        if flat.size != a.shape[1]:
            raise ValueError(f"matrix has {a.shape[1]} columns, but v has {flat.size} numbers")
        rows = jnp.asarray(basis, flat.dtype)
        out = flat - (rows @ flat) @ rows
        if rhs is not None:
            rhs = fitting(jnp.asarray(rhs, flat.dtype))
            out = out + jnp.asarray(pseudoinverse, flat.dtype) @ rhs
        elif shift is not None:
            out = out + jnp.asarray(shift, flat.dtype)
        return unravel(out)

    return project


def product(projections: Any) -> Projection:
    """Returns the projection onto a product of sets, one for each part of a pytree.

    Args:
      projections: A pytree whose leaves are projections, or ``None`` for no constraint. It is a
        prefix of ``v``: each projects the subtree at its place.

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

    Example:
      >>> import jax.numpy as jnp
      >>> from bilevel import projections
      >>> project_xy = projections.joint(projections.halfspace((1.0, 1.0), 2.0))
      >>> project_xy(jnp.array(3.0), jnp.array(1.0))
      (Array(2., dtype=float32...), Array(0., dtype=float32...))
    """
    return lambda x, y: projection((x, y))


def polyhedron(matrix: Any, rhs: Any, iterations: int = 50) -> Projection:
    r"""Returns the projection onto :math:`\{(u, \xi) : A u + \xi \ge c\}`, one slack for each row.

    The slacks leave a strongly convex, piecewise quadratic problem in ``u`` alone,

    .. math::
      \min_u \tfrac12 \|u - u_0\|^2 + \tfrac12 \|\max(0, c - A u - \xi_0)\|^2, \quad
      \xi = \max(\xi_0, c - A u),

    which semismooth Newton solves exactly as soon as the set of active rows is found, after about
    four steps. A line search makes it converge from anywhere. Derivatives are those of the last
    Newton step, so exact too.

    Args:
      matrix: :math:`A`, shape ``(n, d)``, ``d`` small.
      rhs: :math:`c`, shape ``(n,)`` or a number.
      iterations: Most Newton steps.

    Returns:
      A projection of pairs ``(u, xi)``; ``u`` is any pytree of ``d`` numbers, ``xi`` an array of
      shape ``(n,)``.

    Example:
      >>> import jax.numpy as jnp
      >>> from bilevel import projections
      >>> project = projections.polyhedron(jnp.ones((1, 1)), 1.0)
      >>> u, xi = project((jnp.zeros(1), jnp.zeros(1)))
      >>> print(f"{u[0]:.3f} {xi[0]:.3f}")
      0.500 0.500

    References:
      Qi, Sun, `A nonsmooth version of Newton's method
      <https://doi.org/10.1007/BF01581275>`_, 1993
    """
    a = np.asarray(matrix, np.float64)
    if a.ndim != 2:
        raise ValueError(f"matrix must have two axes, got shape {a.shape}")
    c = np.broadcast_to(np.asarray(rhs, np.float64), a.shape[:1])

    def project(v):
        start, slack = v
        u0, unravel = ravel_pytree(start)
        dtype = jnp.promote_types(jnp.result_type(u0, slack), jnp.float32)
        narrow, u0, xi0 = u0.dtype, u0.astype(dtype), jnp.asarray(slack, dtype)
        if u0.size != a.shape[1] or jnp.shape(xi0) != c.shape:
            raise ValueError(
                f"matrix {a.shape} needs u with {a.shape[1]} numbers and xi of shape {c.shape}, "
                f"got {u0.size} and {jnp.shape(xi0)}"
            )
        rows, gap0 = jnp.asarray(a, u0.dtype), jnp.asarray(c, u0.dtype) - xi0

        def newton(active, u0, gap0):
            masked = jnp.where(active[:, None], rows, 0)
            hessian = jnp.eye(u0.size, dtype=u0.dtype) + masked.T @ masked
            factor = jax.scipy.linalg.cho_factor(hessian)
            return jax.scipy.linalg.cho_solve(factor, u0 + masked.T @ gap0)

        def value(u, u0, gap0):
            return 0.5 * jnp.sum((u - u0) ** 2) + 0.5 * jnp.sum(
                jnp.maximum(gap0 - rows @ u, 0) ** 2
            )

        def solve(u0, gap0):
            def active_at(u):
                return gap0 - rows @ u > 0

            def unsettled(carry):
                _, _, settled, i = carry
                return ~settled & (i < iterations)

            def body(carry):
                u, active, _, i = carry
                target = newton(active, u0, gap0)
                settled = jnp.all(active_at(target) == active)
                before, d = value(u, u0, gap0), target - u

                def too_long(t):
                    worse = value(u + t * d, u0, gap0) > before
                    return worse & (t > 1e-6) & ~settled

                t = jax.lax.while_loop(too_long, lambda t: t / 2, jnp.ones((), u.dtype))
                u = jnp.where(settled, target, u + t * d)
                return u, active_at(u), settled, i + 1

            first = (u0, active_at(u0), jnp.zeros((), bool), 0)
            return jax.lax.while_loop(unsettled, body, first)[1]

        active = solve(*jax.lax.stop_gradient((u0, gap0)))
        u = newton(active, u0, gap0)
        xi = jnp.maximum(xi0, gap0 + xi0 - rows @ u)
        return unravel(u.astype(narrow)), xi.astype(jnp.result_type(slack))

    return project


def svm(features: Any, labels: Any) -> Projection:
    r"""Returns the projection onto the set of soft-margin classifiers of a data set.

    .. math::
      \{(w, b, \xi) : y_i (w^\top z_i + b) \ge 1 - \xi_i\}

    Args:
      features: :math:`z`, shape ``(n, d)``.
      labels: :math:`y_i \in \{-1, 1\}`, shape ``(n,)``.

    Returns:
      A projection of triples ``(w, b, xi)``, of shapes ``(d,)``, ``()`` and ``(n,)``; see
      :func:`polyhedron`.

    Example:
      >>> import jax.numpy as jnp
      >>> from bilevel import projections
      >>> project = projections.svm(jnp.array([[1.0], [-1.0]]), jnp.array([1.0, -1.0]))
      >>> project((jnp.zeros(1), jnp.zeros(()), jnp.zeros(2)))[0]
      Array([0.66666...], dtype=float32)
    """
    z, y = np.asarray(features, np.float64), np.asarray(labels, np.float64)
    if z.ndim != 2 or y.shape != z.shape[:1]:
        raise ValueError(f"features must be (n, d) and labels (n,), got {z.shape} and {y.shape}")
    if not np.all(np.abs(y) == 1):
        raise ValueError(f"labels must be -1 or 1, got {np.unique(y)[:5]}")
    inner = polyhedron(y[:, None] * np.column_stack([z, np.ones(len(z))]), 1.0)

    def project(v):
        w, b, xi = v
        (w, b), xi = inner(((w, b), xi))
        return w, b, xi

    return project
