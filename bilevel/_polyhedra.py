"""Projections onto polyhedra, by methods that end after finitely many steps.

:mod:`bilevel.projections` has them, with all other sets.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from optim import _checks

__all__ = ["at_least_float32", "finite", "inequalities", "matrix_of", "polyhedron", "svm"]

Projection = Callable[[Any], Any]


def at_least_float32(a: Any) -> jax.Array:
    """Returns an array in its own dtype, or in float32 if that is narrower."""
    return jnp.asarray(a, jnp.promote_types(jnp.result_type(a), jnp.float32))


def finite(name: str, value: Any) -> np.ndarray:
    """Returns a float64 array; raises ``ValueError``, with its name, if an entry is not finite."""
    array = np.asarray(value, np.float64)
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name} must be finite, got {array[~np.isfinite(array)].flat[0]}")
    return array


def matrix_of(matrix: Any) -> np.ndarray:
    """Returns a finite float64 matrix; raises ``ValueError`` if it does not have two axes."""
    a = finite("matrix", matrix)
    if a.ndim != 2:
        raise ValueError(f"matrix must have two axes, got shape {a.shape}")
    return a


def _rows(rhs: Any, a: np.ndarray) -> np.ndarray:
    """Returns one number for each row of ``a``."""
    if np.shape(rhs) not in ((), (1,), a.shape[:1]):
        raise ValueError(f"rhs must be a number or have shape {a.shape[:1]}, got {np.shape(rhs)}")
    return np.broadcast_to(np.asarray(rhs, np.float64), a.shape[:1])


def inequalities(matrix: Any, rhs: Any) -> Projection:
    r"""Returns the projection onto a polyhedron :math:`\{v : A v \le b\}`.

    .. math::
      P(v) = v - A^\top \lambda, \quad
      \lambda = \arg\min_{\lambda \ge 0} \tfrac12 \|A^\top \lambda\|^2 - \lambda^\top (A v - b)

    by the active-set method of Lawson and Hanson for nonnegative least squares, which is exact
    after finitely many steps, each a factorization of an m x m matrix. Derivatives are those of
    the last solve with the active rows held, so exact too.

    Args:
      matrix: :math:`A`, shape ``(m, n)``, ``m`` up to some hundreds, for ``v`` raveled to ``n``
        numbers in the order of ``jax.tree.leaves``.
      rhs: :math:`b`, shape ``(m,)`` or a number; ``inf`` for a row that never binds.

    Returns:
      A projection of any pytree with n numbers.

    Raises:
      ValueError: On shapes that do not fit, a NaN, and a polyhedron that is empty.

    Example:
      >>> import jax.numpy as jnp
      >>> from bilevel import projections
      >>> project = projections.inequalities([[1.0, 1.0], [-1.0, 0.0]], [1.0, 0.0])
      >>> print(np.round(np.asarray(project(jnp.array([-1.0, 3.0]))), 3))
      [0. 1.]

    References:
      Lawson, Hanson, `Solving Least Squares Problems
      <https://doi.org/10.1137/1.9781611971217>`_, 1995, chapter 23
    """
    a = matrix_of(matrix)
    b = _rows(rhs, a)
    size = np.linalg.norm(a, axis=1)
    if np.any(np.isnan(b)) or np.any(b == -np.inf) or np.any((size == 0) & (b < 0)):
        raise ValueError(f"rhs must leave a set that is not empty, got {b}")
    binding = np.isfinite(b) & (size > 0)
    a, b = a[binding] / size[binding, None], b[binding] / size[binding]
    n = np.shape(matrix)[1]

    def project(v):
        flat, unravel = ravel_pytree(v)
        if flat.size != n:
            raise ValueError(f"matrix has {n} columns, but v has {flat.size} numbers")
        wide = at_least_float32(flat)
        rows, offsets = jnp.asarray(a, wide.dtype), jnp.asarray(b, wide.dtype)
        gram, excess = rows @ rows.T, rows @ wide - offsets
        active = _active_rows(*jax.lax.stop_gradient((gram, excess)))
        out = wide - _masked_solve(gram, excess, active) @ rows
        return unravel(out.astype(flat.dtype))

    with jax.enable_x64(True):
        violation = np.max(a @ np.asarray(project(np.zeros(n))) - b, initial=0.0)
    if not violation <= 1e-6:  # NaN where the active rows contradict each other.
        raise ValueError(
            f"the polyhedron is empty: no point keeps its inequalities ({violation:.3g} is left)"
        )
    return project


def _masked_solve(gram, q, active):
    """Returns the solution of ``gram lam = q`` over the active rows; zero elsewhere."""
    both = active[:, None] & active[None, :]
    system = jnp.where(both, gram, 0) + jnp.diag(jnp.where(active, 0, 1).astype(gram.dtype))
    return jnp.linalg.solve(system, jnp.where(active, q, 0))


def _active_rows(gram, q):
    """Returns the rows that carry the projection, for ``gram = A A'`` and ``q = A v - b``.

    With x = u - v it is the least-distance problem min |x|, -A x >= q, whose active rows are the
    positive entries of argmin_{w >= 0} |E w - f| with E = (-A, q)' and f = (0, ..., 0, 1).
    """
    m = q.shape[0]
    q = q / jnp.maximum(jnp.max(jnp.abs(q), initial=0.0), jnp.finfo(q.dtype).tiny)
    normal, tolerance = gram + jnp.outer(q, q), 10 * m * jnp.finfo(q.dtype).eps

    def gradient(w):
        return q - normal @ w

    def unsettled(carry):
        w, active, i = carry
        return jnp.any(~active & (gradient(w) > tolerance)) & (i < 10 * m)

    def add_one(carry):
        w, active, i = carry
        active = active.at[jnp.argmax(jnp.where(active, -jnp.inf, gradient(w)))].set(True)

        def negative(carry):
            _, active, target = carry
            return jnp.any(active & (target <= 0))

        def step_back(carry):
            w, active, target = carry
            falls = active & (target <= 0)
            lengths = jnp.where(falls, w / jnp.where(falls, w - target, 1), jnp.inf)
            first = jnp.argmin(lengths)  # The entry that meets zero first leaves.
            w = jnp.where(active, w + lengths[first] * (target - w), 0).at[first].set(0)
            active = active.at[first].set(False)
            return w, active, _masked_solve(normal, q, active)

        carry = (w, active, _masked_solve(normal, q, active))
        _, active, target = jax.lax.while_loop(negative, step_back, carry)
        return target, active, i + 1

    start = (jnp.zeros_like(q), jnp.zeros(m, bool), 0)
    return jax.lax.while_loop(unsettled, add_one, start)[1]


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
      rhs: :math:`c`, shape ``(n,)`` or a number; ``-inf`` for a row that never binds.
      iterations: Most Newton steps, >= 1.

    Returns:
      A projection of pairs ``(u, xi)``; ``u`` is any pytree of ``d`` numbers, ``xi`` an array of
      shape ``(n,)``.

    Raises:
      ValueError: On shapes that do not fit, and on a NaN or infinity that leaves no set.

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
    a = matrix_of(matrix)
    c = _rows(rhs, a)
    if np.any(np.isnan(c)) or np.any(c == np.inf):
        raise ValueError(f"rhs must be a number or -inf in each row, got {c}")
    _checks.count("iterations", iterations)

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
            gaps = jnp.where(active, gap0, 0)  # A row of -inf never binds.
            return jax.scipy.linalg.cho_solve(factor, u0 + masked.T @ gaps)

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

    Raises:
      ValueError: On shapes that do not fit, labels other than -1 and 1, features that are not
        finite.

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
