r"""What a bilevel problem is, what a solver is, and the batches that a solver may ask for.

.. math::
  \min_{x \in X,\, y} F(x, y) \quad\text{s.t.}\quad
  y \in \arg\min_{y \in Y} \{ f(x, y) : g(x, y) \le 0 \}
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from optim import _checks

__all__ = ["Gradients", "Nonsmooth", "Problem", "Samples", "Solver"]


class Nonsmooth(NamedTuple):
    r"""A term :math:`h(x, y)` of the lower level that is convex in y and has no gradient there.

    .. math::
      y \in \arg\min_y f(x, y) + h(x, y), \qquad
      \mathrm{prox}(x, v, s) = \arg\min_u h(x, u) + \tfrac{1}{2s} \|u - v\|^2

    Attributes:
      value: ``h(x, y) -> scalar``, differentiable in x.
      prox: ``prox(x, v, s) -> u``, like y.

    Example:
      >>> import bilevel, jax.numpy as jnp
      >>> l1 = bilevel.Nonsmooth(
      ...     value=lambda x, y: jnp.exp(x) * jnp.sum(jnp.abs(y)),
      ...     prox=lambda x, v, s: jnp.sign(v) * jnp.maximum(jnp.abs(v) - s * jnp.exp(x), 0),
      ... )
      >>> l1.prox(0.0, jnp.array([3.0, -0.5]), 1.0)
      Array([ 2., -0.], dtype=float32)
    """

    value: Callable[[Any, Any], Any]
    prox: Callable[[Any, Any, Any], Any]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    r"""A bilevel problem: two functions, and sets and constraints where there are some.

    .. math::
      \min_{x \in X,\, y \in Y} F(x, y) \quad\text{s.t.}\quad
      y \in \arg\min_{y \in Y} \{ f(x, y) : g(x, y) \le 0 \}

    ``x`` and ``y`` are any pytrees of floating-point arrays. Every function takes ``batch`` last:
    the upper function the upper batch, the lower function and the constraint the lower batch. The
    ``batch`` of a solver's step is the pair ``(upper_batch, lower_batch)``; the two are drawn
    independently and either may be ``None``, as the whole may for a deterministic problem.
    Methods that need still more independence take :class:`Samples`.

    A problem has no arrays of its own, so that it rides through ``jit`` as part of a state's
    structure. Functions may be any callables: modules and dataclasses that hold arrays too, which
    become constants of the compiled step. Two problems are equal where all their functions are:
    those that hash are compared by ``==``, others are equal to themselves alone. Build a problem
    once: a new one compiles the step anew.

    Args:
      upper: ``F(x, y, batch) -> scalar``.
      lower: ``f(x, y, batch) -> scalar``, the mean over its batch.
      constraint: ``g(x, y, batch) -> array`` of any shape, at most zero where feasible (zero with
        ``equality``). It couples both levels; it must not depend on the device's share of a batch.
      project_x: ``x -> x``, the projection onto :math:`X`; ``None`` for the whole space.
      project_y: ``y -> y``, the projection onto :math:`Y`.
      project_xy: ``(x, y) -> (x, y)``, the projection onto
        :math:`C = \{x \in X, y \in Y, g(x, y) \le 0\}`. Needed by methods that keep the
        constraint; ``project_x`` and ``project_y`` stand in without a constraint.
      multiplier_bound: Bound :math:`r > 0` of the multipliers, which lie in :math:`[0, r]`
        (:math:`[-r, r]` with ``equality``). ``math.inf`` leaves them unbounded, on purpose.
      equality: Whether the constraint is :math:`g(x, y) = 0`.
      nonsmooth: A :class:`Nonsmooth` term that is added to the lower function.
      has_stats: Whether the functions take statistics of a model before the batch, and ``lower``
        returns ``(value, new_stats)``; see :func:`bilevel.with_stats`.

    Raises:
      ValueError: On something that is not callable, a bound that is not positive, or
        constraint options without a constraint.

    Example:
      >>> import bilevel, jax.numpy as jnp
      >>> problem = bilevel.Problem(
      ...     upper=lambda x, y, batch: jnp.sum((y - 1.0) ** 2),
      ...     lower=lambda x, y, batch: jnp.sum((y - x) ** 2),
      ... )
      >>> solver = bilevel.f2sa(penalized_step=0.1, lower_step=0.2)
      >>> state = solver.init(problem, jnp.zeros(2), jnp.zeros(2))
      >>> state, metrics = solver.step(state, None)
      >>> sorted(metrics)
      ['gap', 'lower', 'lower_gap', 'lower_residual', 'multiplier', 'residual', 'upper']
    """

    upper: Callable[..., Any]
    lower: Callable[..., Any]
    constraint: Callable[..., Any] | None = None
    project_x: Callable[[Any], Any] | None = None
    project_y: Callable[[Any], Any] | None = None
    project_xy: Callable[[Any, Any], tuple[Any, Any]] | None = None
    multiplier_bound: float | None = None
    equality: bool = False
    nonsmooth: "Nonsmooth | None" = None
    has_stats: bool = False

    def __post_init__(self):
        for name in ("upper", "lower"):
            if not callable(getattr(self, name)):
                raise ValueError(f"{name} must be callable, got {getattr(self, name)!r}")
        for name in ("constraint", "project_x", "project_y", "project_xy"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise ValueError(f"{name} must be callable or None, got {value!r}")
        if self.nonsmooth is not None:
            if not (isinstance(self.nonsmooth, Nonsmooth) and all(map(callable, self.nonsmooth))):
                raise ValueError(
                    f"nonsmooth must be bilevel.Nonsmooth(value, prox), got {self.nonsmooth!r}"
                )
            if self.project_y is not None:
                raise ValueError(
                    "nonsmooth and project_y exclude each other: the set belongs into the prox"
                )
        _checks.flag("equality", self.equality)
        _checks.flag("has_stats", self.has_stats)
        r = self.multiplier_bound
        if r is not None:
            _checks.number("multiplier_bound", r, 0, open_low=True, infinite=True)
            object.__setattr__(self, "multiplier_bound", float(r))
        if self.constraint is None and (r is not None or self.equality):
            raise ValueError("multiplier_bound and equality need a constraint, got constraint=None")

    def _key(self) -> tuple[Any, ...]:
        return tuple(_comparable(getattr(self, f.name)) for f in dataclasses.fields(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Problem) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


class _Identity(NamedTuple):
    """Stands for a callable that cannot be hashed, by value or at all."""

    id: int


def _comparable(value: Any) -> Any:
    try:
        hash(value)
    except Exception:  # Whatever a class of the user's raises.
        return _Identity(id(value))
    return value


class Gradients(NamedTuple):
    """How many derivatives a step takes.

    Attributes:
      upper: Gradients of the upper function.
      lower: Gradients of the lower function.
      products: Hessian-vector products of the lower function.
      constraint: Gradients of the constraint.
    """

    upper: int = 0
    lower: int = 0
    products: int = 0
    constraint: int = 0

    @property
    def total(self) -> int:
        """Their number in units of a gradient; a Hessian-vector product counts as two."""
        return self.upper + self.lower + 2 * self.products + self.constraint


class Solver(NamedTuple):
    """A method: a pair of pure functions, and what their caller must know.

    Attributes:
      init: ``init(problem, x0, y0) -> state``. Projects an infeasible start, with a warning. The
        state is a NamedTuple with fields ``problem``, ``count``, ``x``, ``y`` and the method's
        own. A pruning method takes the parameters for ``y0`` and its scores or masks for ``x0``,
        or ``None``.
      step: ``step(state, batch) -> (state, metrics)``; metrics are a flat dict of scalars.
      axis_name: The mapped axis over which ``step`` averages, or ``None``.
      name: Name of the method, as that of the function that made the solver.
      gradients: What a step costs.
      batch: What ``step`` takes. ``"pair"``: ``(upper_batch, lower_batch)``; ``"samples"``: the
        pair, or :class:`Samples`; ``"components"``: numbered components of both levels, see
        :func:`bilevel.saba`; ``"one"``: one batch for both levels.
      inner_steps: Length of the leading axis of the inner batches of :class:`Samples`, or of the
        lower batch; 0 where they have none.
      lower: What the method's theory asks of the lower level in y: ``"strongly convex"``,
        ``"convex"`` or ``"nonconvex"``, which still has a condition, named in its docstring.
      constraints: Which of ``"project_x"``, ``"project_y"``, ``"project_xy"``, ``"constraint"``
        and ``"nonsmooth"`` of a problem it keeps. ``init`` refuses a problem with another.
      step_names: Names of its step sizes among the arguments of the function that made it.
      residuals: Names of the metrics that vanish at a solution, for ``tol`` of
        :func:`bilevel.solve`.
      export: ``export(state) -> result``; ``None`` where ``x`` and ``y`` are the result.
      doubts: ``doubts(state) -> sentences`` that say why the result of a run that ends there is not
        to be trusted; ``None`` for a method that has nothing to say.
    """

    init: Callable[..., Any]
    step: Callable[[Any, Any], tuple[Any, dict[str, Any]]]
    axis_name: str | None = None
    name: str = ""
    gradients: Gradients = Gradients()
    batch: str = "pair"
    inner_steps: int = 0
    lower: str = "nonconvex"
    constraints: tuple[str, ...] = ()
    step_names: tuple[str, ...] = ()
    residuals: tuple[str, ...] = ("residual",)
    export: Callable[[Any], Any] | None = None
    doubts: Callable[[Any], tuple[str, ...]] | None = None


class Samples(NamedTuple):
    """One independent batch for each gradient that a penalty method takes.

    A pair ``(upper_batch, lower_batch)`` gives all oracles of a level the same batch. ``Samples``
    gives each its own; the first three, used by the inner loop, have a leading axis of length
    ``inner_steps``. (Over a mesh, where inputs are split along their leading axis, build them on
    the device, in the loop's ``prepare``.)

    Attributes:
      f_y: For the gradient in ``y`` of the upper function, in the inner loop.
      g_y: For the gradient in ``y`` of the lower function at the penalized variable.
      g_z: The same at the lower-level variable ``z``.
      f_x: For the gradient in ``x`` of the upper function.
      g_xy: For the gradient in ``x`` of the lower function at the penalized variable.
      g_xz: The same at the lower-level variable ``z``.
    """

    f_y: Any
    g_y: Any
    g_z: Any
    f_x: Any
    g_xy: Any
    g_xz: Any
