"""Hypergradients of small problems, by implicit differentiation and by finite differences."""

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from bilevel._common import batches, maybe, scalar
from bilevel.problem import Problem
from optim import _checks

__all__ = ["HypergradientCheck", "check_hypergradient"]

_LARGEST = 1000
_SOLVED = 1e-6  # Largest optimality residual of a lower level that counts as solved.


class HypergradientCheck(NamedTuple):
    """What :func:`check_hypergradient` returns; a number that it does not believe is NaN.

    Attributes:
      implicit: Gradient of the hyper-objective by the implicit function theorem, like ``x``.
      finite_difference: The same by central differences of re-solved lower problems.
      relative_error: Norm of their difference over the norm of the second.
      given_error: The same for the ``hypergradient`` that was passed in; ``None`` without one.
      value: Hyper-objective: the upper function at the lower solution.
      y: Lower solution, or where the search for it ended.
      multipliers: Its multipliers, flat; empty without a constraint.
      lower_residual: Norm of the lower level's optimality conditions at ``y``.
      doubts: Why numbers are NaN, a tuple of sentences; empty where all is well.
    """

    implicit: Any
    finite_difference: Any
    relative_error: float
    given_error: float | None
    value: float
    y: Any
    multipliers: np.ndarray
    lower_residual: float
    doubts: tuple[str, ...] = ()


def check_hypergradient(
    problem: Problem,
    x: Any,
    y: Any,
    batch: Any = None,
    *,
    hypergradient: Any = None,
    epsilon: float = 1e-5,
) -> HypergradientCheck:
    r"""Compares hypergradients of a small problem, in float64.

    The lower level is solved from ``y`` to its optimality conditions :math:`R(x, u) = 0`,

    .. math::
      u = (y, \lambda), \qquad R = \begin{pmatrix}
        y - P_Y(y - s (f_y + g_y^\top \lambda)) \\ \lambda - \max(0, \lambda + t g) \end{pmatrix}

    (:math:`g` itself in the second line with ``equality``), by an augmented Lagrangian method and
    then Newton's method, both dense. Then

    .. math::
      \nabla\psi = F_x - R_x^\top (R_u^\top)^+ \begin{pmatrix} F_y \\ 0 \end{pmatrix}
      \qquad\text{against}\qquad
      \frac{F(x + \epsilon e_i, y^*) - F(x - \epsilon e_i, y^*)}{2 \epsilon}

    with :math:`y^*` solved anew at each point. Among many lower solutions both follow the one
    nearest to where they start. A number is refused, and NaN stands for it, with a warning that
    says why: where the lower level is not solved, here or at a neighbor; where its stationary point
    is no minimum; where it is singular in a direction that the upper function sees; and where the
    hyper-objective has a kink (a constraint about to become active, say), so that its one-sided
    slopes differ however small the step is.

    Args:
      problem: The problem; ``project_x`` and ``project_xy`` play no part.
      x: Upper variable; it and ``y`` with the multipliers have at most 1000 numbers each.
      y: Where the search for the lower solution starts.
      batch: ``(upper_batch, lower_batch)``, or ``None``.
      hypergradient: A direction to judge, such as a solver's, like ``x``.
      epsilon: Step of the finite differences, > 0, times ``max(1, |x|)``.

    Returns:
      A :class:`HypergradientCheck` of numpy arrays.

    Raises:
      ValueError: On a problem that is too large, or has a nonsmooth term or statistics, or an
        argument out of range.

    Warns:
      UserWarning: Where a number is refused, and where the two gradients differ.

    Example:
      >>> import bilevel, jax.numpy as jnp
      >>> problem = bilevel.Problem(
      ...     upper=lambda x, y, batch: jnp.sum((y - 1.0) ** 2),
      ...     lower=lambda x, y, batch: jnp.sum((y - x**2) ** 2),
      ... )
      >>> check = bilevel.check_hypergradient(problem, jnp.full(1, 2.0), jnp.zeros(1))
      >>> check.implicit, check.relative_error < 1e-6  # d/dx (x^2 - 1)^2 = 4 x (x^2 - 1)
      (array([24.]), True)
    """
    _checks.number("epsilon", epsilon, 0, open_low=True)
    for name in ("nonsmooth", "has_stats"):
        if getattr(problem, name):
            raise ValueError(f"check_hypergradient takes no problem with {name}")
    if hypergradient is not None:
        got, expected = (jax.tree.map(np.shape, tree) for tree in (hypergradient, x))
        if got != expected:
            raise ValueError(f"hypergradient must have the shapes of x, {expected}, got {got}")
    with jax.enable_x64(True):
        x, y = (jax.tree.map(lambda a: np.asarray(a, np.float64), t) for t in (x, y))
        x_flat, unravel_x = ravel_pytree(x)
        y_flat, unravel_y = ravel_pytree(y)
        upper_batch, lower_batch = batches(batch)
        level = _Flat(problem, unravel_x, unravel_y, lower_batch, y_flat.size)
        lam = jnp.zeros_like(level.constraint(x_flat, y_flat))
        for name, size in (("x", x_flat.size), ("y and its multipliers", y_flat.size + lam.size)):
            if size > _LARGEST:
                raise ValueError(f"{name} must have at most {_LARGEST} numbers, got {size}")
        F = scalar(problem.upper, "upper")

        def upper(a, b):
            return F(unravel_x(a), unravel_y(b), upper_batch)

        @jax.jit
        def both(x, y, lam):
            scales = level.scales(x, y)
            near = level.descend(x, y, lam, scales)
            u = level.newton(x, near, scales)
            r_x, r_u = jax.jacfwd(level.residual, (0, 1))(x, u, scales)
            value, (F_x, F_y) = jax.value_and_grad(upper, (0, 1))(x, u[: y.size])
            cotangent = jnp.concatenate([F_y, jnp.zeros_like(lam)])
            w = jnp.linalg.lstsq(r_u.T, cotangent, rcond=1e-10)[0]

            def psi(x):
                v = level.newton(x, u, scales)
                return upper(x, v[: y.size]), jnp.linalg.norm(level.residual(x, v, scales))

            h = epsilon * jnp.maximum(1.0, jnp.linalg.norm(x))
            steps = h * jnp.array([1.0, -1.0, 0.25, -0.25])
            ends, left = jax.lax.map(lambda e: jax.vmap(lambda a: psi(x + a * e))(steps), identity)
            return {
                "u": u,
                "value": value,
                "residual": jnp.linalg.norm(level.residual(x, u, scales)),
                "implicit": F_x - r_x.T @ w,
                "unseen": jnp.linalg.norm(r_u.T @ w - cotangent) / (1 + jnp.linalg.norm(F_y)),
                "difference": (ends[:, 0] - ends[:, 1]) / (2 * h),
                "bend": jnp.abs(ends[:, 0] + ends[:, 1] - 2 * value) / h,
                "narrow_bend": jnp.abs(ends[:, 2] + ends[:, 3] - 2 * value) / (h / 4),
                "neighbors": jnp.max(left, initial=0.0),
                "rise": level.rise(x, near, u, scales),
                "curvature": level.least_curvature(x, u[: y.size]) * scales[0],
            }

        identity = jnp.eye(x_flat.size)
        found = jax.device_get(both(x_flat, y_flat, lam))
        doubts, smooth = _doubts(found)
        if doubts:
            warnings.warn("; ".join(doubts), stacklevel=2)
        nothing = np.full(x_flat.size, np.nan)
        implicit = found["implicit"] if not doubts else nothing
        difference = found["difference"] if smooth and not doubts else nothing
        norm = float(np.linalg.norm(difference)) or 1.0

        def error(a):
            return float(np.linalg.norm(a - difference)) / norm

        given = None
        if hypergradient is not None:
            given = error(np.asarray(ravel_pytree(jax.tree.map(np.float64, hypergradient))[0]))
        apart = error(implicit)
        if apart > 1e-3:
            warnings.warn(
                f"the gradients differ, by {apart:.2g} of their size: a function is not as smooth "
                "as it seems, or its derivative is not that of its value",
                stacklevel=2,
            )
        as_numpy = lambda tree: jax.tree.map(np.asarray, tree)  # noqa: E731
        u = found["u"]
        return HypergradientCheck(
            implicit=as_numpy(unravel_x(jnp.asarray(implicit))),
            finite_difference=as_numpy(unravel_x(jnp.asarray(difference))),
            relative_error=apart,
            given_error=given,
            value=float(found["value"]) if not doubts or smooth else float("nan"),
            y=as_numpy(unravel_y(u[: y_flat.size])),
            multipliers=np.asarray(u[y_flat.size :]),
            lower_residual=float(found["residual"]),
            doubts=doubts,
        )


def _doubts(found: dict[str, Any]) -> tuple[tuple[str, ...], bool]:
    """Returns why the gradients are not to be believed, and whether the value still is."""
    residual = float(found["residual"])
    if not residual < _SOLVED:
        return (f"the lower level is not solved: its optimality residual is {residual:.2g}",), False
    if found["curvature"] < -1e-7 or found["rise"] > 1e-6 * (1 + abs(float(found["rise"]))):
        return ("the lower level is not solved: its stationary point is no minimum",), False
    if not found["neighbors"] < _SOLVED:
        text = f"an optimality residual of {float(found['neighbors']):.2g} is left"
        return (f"the lower level is not solved at a neighbor of x: {text}",), True
    numbers = (found["value"], found["implicit"], found["difference"])
    if not all(np.all(np.isfinite(a)) for a in numbers):
        return ("the upper function or its gradient is not finite at the lower solution",), False
    doubts = []
    if found["unseen"] > 1e-6:
        doubts.append(
            "the lower level is singular in a direction that the upper function sees: the "
            "hypergradient is not defined there"
        )
    # A smooth function's slopes on either side close in as the step shrinks; at a kink they do not.
    scale = 1 + float(np.linalg.norm(found["difference"]))
    kinks = (found["narrow_bend"] > 0.5 * found["bend"]) & (found["narrow_bend"] > 1e-3 * scale)
    if np.any(kinks):
        at = ", ".join(map(str, np.flatnonzero(kinks)[:5]))
        doubts.append(f"the hyper-objective has a kink at x: its slopes differ in entries {at}")
    return tuple(doubts), True


class _Flat:
    """The lower level over flat vectors u = (y, multipliers), with its dense solvers."""

    def __init__(self, problem, unravel_x, unravel_y, batch, n):
        f, g = scalar(problem.lower, "lower"), problem.constraint
        project = maybe(problem.project_y)
        self.n, self.equality, self.bounded = n, problem.equality, problem.project_y is not None
        self.lower = lambda x, y: f(unravel_x(x), unravel_y(y), batch)
        self.project = lambda y: ravel_pytree(project(unravel_y(y)))[0]
        self.constraint = lambda x, y: (
            jnp.zeros(0) if g is None else ravel_pytree(g(unravel_x(x), unravel_y(y), batch))[0]
        )

    def scales(self, x, y):
        """Steps s and t of the residual, of the size of the curvature."""
        t = jnp.maximum(jnp.linalg.norm(jax.hessian(self.lower, 1)(x, y), 2), 1e-3)
        return 1 / t, t

    def least_curvature(self, x, y):
        """Smallest eigenvalue of the lower Hessian, where nothing else holds y; zero elsewhere."""
        held = self.bounded or self.constraint(x, y).size
        return 0.0 if held else jnp.linalg.eigvalsh(jax.hessian(self.lower, 1)(x, y))[0]

    def clip(self, lam):
        return lam if self.equality else jnp.maximum(lam, 0.0)

    def residual(self, x, u, scales):
        y, lam, (s, t) = u[: self.n], u[self.n :], scales
        g, pull = jax.vjp(lambda y: self.constraint(x, y), y)
        step = jax.grad(self.lower, 1)(x, y) + pull(lam)[0]
        slack = g if self.equality else lam - self.clip(lam + t * g)
        # Without a set the move itself: a difference would cancel where y has run away.
        move = y - self.project(y - s * step) if self.bounded else s * step
        return jnp.concatenate([move, slack])

    def descend(self, x, y, lam, scales):
        """Augmented Lagrangian: projected gradient with backtracking, then the multipliers."""
        t = scales[1]

        def augmented(y, lam):
            moved = self.clip(lam + t * self.constraint(x, y))
            return self.lower(x, y) + jnp.sum(moved**2 - lam**2) / (2 * t)

        def descent(_, carry):
            y, s, lam = carry
            value, d = jax.value_and_grad(augmented)(y, lam)

            def too_long(s):
                move = self.project(y - s * d) - y
                bound = value + d @ move + move @ move / (2 * s)
                return (augmented(y + move, lam) > bound + 1e-12 * jnp.abs(value)) & (s > 1e-12)

            # Bounded: at a gradient of zero no step is too long, and inf * 0 is NaN.
            first = jnp.minimum(2 * s, 1e6 * scales[0])
            s = jax.lax.while_loop(too_long, lambda s: s / 2, first)
            return self.project(y - s * d), s, lam

        def outer(_, carry):
            y, s, lam = carry
            y, s, _ = jax.lax.fori_loop(0, 300, descent, (y, s, lam))
            return y, s, self.clip(lam + t * self.constraint(x, y))

        rounds = 30 if lam.size else 1
        y, _, lam = jax.lax.fori_loop(0, rounds, outer, (self.project(y), scales[0], lam))
        return jnp.concatenate([y, lam])

    def rise(self, x, near, u, scales):
        """How far ``u`` is above where descent ends, from the start and from beside ``u``.

        Of the lower function with what keeps the constraint.
        """
        y, lam, t = u[: self.n], u[self.n :], scales[1]
        beside = y + 1e-3 * jnp.maximum(1.0, jnp.linalg.norm(y)) * jnp.cos(jnp.arange(self.n))
        again = self.descend(x, beside, lam, scales)

        def augmented(y):
            return self.lower(x, y) + jnp.sum(self.clip(lam + t * self.constraint(x, y)) ** 2) / (
                2 * t
            )

        lowest = jnp.minimum(augmented(near[: self.n]), augmented(again[: self.n]))
        return augmented(y) - lowest

    def newton(self, x, u, scales):
        """Newton's method on the residual; of several step lengths the best, or none."""
        lengths = jnp.array([1.0, 0.5, 0.2, 0.05, 0.0])

        def body(_, u):
            r, jacobian = self.residual(x, u, scales), jax.jacfwd(self.residual, 1)(x, u, scales)
            move = jnp.linalg.lstsq(jacobian, -r, rcond=1e-10)[0]
            sizes = jax.vmap(lambda a: jnp.linalg.norm(self.residual(x, u + a * move, scales)))
            return u + lengths[jnp.nanargmin(sizes(lengths))] * move

        return jax.lax.fori_loop(0, 12, body, u)
