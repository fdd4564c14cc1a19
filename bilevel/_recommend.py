"""Which solver fits a problem: its curvature, its sets, its noise, and what follows from them."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from bilevel._common import batches, onto_lower, projected_gradient, scalar, start
from bilevel._diagnose import growth_of
from bilevel._solver._hessian import conjugate_gradient
from bilevel._solver.f2sa import f2sa
from bilevel._solver.f3sa import f3sa
from bilevel._solver.implicit import implicit
from bilevel._solver.lv_hba import lv_hba
from bilevel._solver.penalty import penalty
from bilevel._solver.soba import soba
from bilevel._solver.unrolled import unrolled
from bilevel.problem import Problem, Solver
from bilevel.schedules import (
    f2sa_schedules,
    f3sa_schedules,
    lv_hba_schedule,
    lv_hba_steps,
    penalty_schedules,
)

__all__ = ["Advice", "Facts", "Recommendation", "recommend"]

_RANK = {"linear": -1, "nonconvex": 0, "convex": 1, "strongly convex": 2}


class Facts(NamedTuple):
    r"""What :func:`recommend` found out about a problem.

    Attributes:
      x_size: Numbers in x.
      y_size: Numbers in y.
      largest: Largest eigenvalue of the lower Hessian: at the start, where descent led, and at the
        ends of X where it is bounded; larger where 500 iterations with it led to a larger one, or
        did not lead to a lower solution.
      smallest: Smallest one; of more than 40 numbers an estimate from above.
      lower: ``"strongly convex"``, ``"convex"``, ``"nonconvex"`` or ``"linear"``, there.
      twice_differentiable: Whether the lower gradient has derivatives in forward mode.
      noise: Spread of the lower gradient between batches over its size; 0 for one batch.
      coupling: Largest squared singular value of the constraint's Jacobian in y; 0 without one.
      seen: Smallest curvature in the directions that the upper gradient :math:`F_y` reaches, its
        Krylov space; nan where second derivatives are missing or there is a constraint.
      unsolved: :math:`\|f_{yy} v - F_y\| / \|F_y\|` after 200 conjugate gradients, at the start or
        where descent led, the larger. Near 0 the upper level sees nothing of what the lower one
        leaves open, such as the constant that a softmax ignores; nan as above.
    """

    x_size: int
    y_size: int
    largest: float
    smallest: float
    lower: str
    twice_differentiable: bool
    noise: float
    coupling: float
    seen: float
    unsolved: float


class Advice(NamedTuple):
    """What :func:`recommend` says of one solver.

    Attributes:
      solver: The solver, its steps fitted to the problem.
      fits: Whether its assumptions hold.
      why: The reason, a sentence.
    """

    solver: Solver
    fits: bool
    why: str


class Recommendation(NamedTuple):
    """What :func:`recommend` returns.

    Attributes:
      solver: The first solver that fits; ``None`` where none does.
      why: Why it was taken, or why there is none.
      advice: :class:`Advice` for every solver, the better ones first.
      facts: The :class:`Facts` on which it rests.
      stable_steps: Constant upper steps of the recommended solver with the spectral radius of its
        iteration there; above one it is locally unstable. ``implicit`` is taken with Neumann's
        series, which lags further behind. Empty where a joint step moves x and y.
    """

    solver: Solver | None
    why: str
    advice: tuple[Advice, ...]
    facts: Facts
    stable_steps: dict[float, float]

    def __str__(self) -> str:
        lines = [f"{self.why}", f"{self.facts}"]
        lines += [f"{'+' if a.fits else '-'} {a.solver.name}: {a.why}" for a in self.advice]
        lines += [
            f"upper_step {s:g}: spectral radius {r:.4f}" for s, r in self.stable_steps.items()
        ]
        return "\n".join(lines)


def recommend(
    problem: Problem,
    x: Any,
    y: Any,
    batch: Any = None,
    *,
    more_batches: Sequence[Any] = (),
    seed: int = 0,
) -> Recommendation:
    r"""Looks at a problem, and says which solvers' assumptions hold, with what steps, and why.

    It finds the extreme eigenvalues of the lower Hessian :math:`f_{yy}` by Lanczos' method on
    Hessian-vector products, at ``y`` and after 200 steps of projected gradient descent from there,
    the largest one at the ends of a bounded X and where 500 iterations lead too, since x moves and
    may take it along; the spread
    of the lower gradient between batches; the sets and constraints of the problem.
    Lower steps are :math:`1 / L`; :func:`bilevel.implicit` takes them with Nesterov's momentum for
    the condition number :math:`\kappa`, and :math:`\sqrt\kappa` of them (10 to 100) an iteration,
    as many as conjugate gradients, so that y and v follow x. Its hypergradient is then nearly
    exact, and without noise AdaGrad with momentum moves x: its steps shrink as far as the gradients
    demand, and not with time alone as Adam's. A lower level with flat directions counts
    as strongly convex where the upper gradient has no part in them. Of constant upper steps it says
    which are locally stable, as :func:`bilevel.diagnose` does. All this is local: a lower level
    that is convex here may not be elsewhere.

    Args:
      problem: The problem.
      x: Upper variable, such as the start.
      y: Lower variable, such as the start.
      batch: ``(upper_batch, lower_batch)``, or ``None``.
      more_batches: Further batches, to measure the noise.
      seed: Of the first vectors.

    Returns:
      A :class:`Recommendation`; ``print`` it.

    Raises:
      ValueError: On a start that does not fit the problem, or at which the curvature of the lower
        level is not finite.

    Example:
      >>> import bilevel, jax.numpy as jnp
      >>> problem = bilevel.Problem(
      ...     upper=lambda x, y, batch: jnp.sum((y - 1.0) ** 2),
      ...     lower=lambda x, y, batch: jnp.sum((y - x) ** 2),
      ... )
      >>> found = bilevel.recommend(problem, jnp.zeros(2), jnp.zeros(2))
      >>> found.solver.name, found.facts.lower, round(found.facts.largest, 3)
      ('implicit', 'strongly convex', 2.0)
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of an infeasible start: it is only a place to look at.
        x, y = start(problem, x, y, joint=True)
    rng = np.random.default_rng(seed)
    product = _hessian_product(problem, y, batch)
    facts = _facts(problem, product, x, y, batch, more_batches, rng)
    facts = _ahead(problem, product, facts, x, y, batch, rng)
    candidates = _candidates(problem, facts)
    if problem.constraint is not None:
        scale = _joint_scale(problem, facts, x, y, batch)
        candidates = [_joint(facts, scale), *candidates[1:]]
    advice = tuple(_judge(problem, facts, solver) for solver in candidates)
    best = next((a for a in advice if a.fits), None)
    if best is None:
        why = "; ".join(f"{a.solver.name}: {a.why}" for a in advice)
        return Recommendation(None, f"no solver fits ({why})", advice, facts, {})
    steps = _stable_steps(problem, best.solver, facts, x, y, batch, rng)
    return Recommendation(best.solver, f"{best.solver.name}: {best.why}", advice, facts, steps)


def _hessian_product(problem: Problem, y: Any, batch: Any) -> Callable[..., jax.Array]:
    """Returns ``(x, y, v) -> f_yy v`` of flat y and v."""
    f, lower_batch = scalar(problem.lower, "lower"), batches(batch)[1]
    _, unravel = ravel_pytree(y)

    @jax.jit
    def product(x, y, v):
        slope = lambda y: ravel_pytree(jax.grad(f, 1)(x, unravel(y), lower_batch))[0]  # noqa: E731
        return jax.jvp(slope, (y,), (v,))[1]

    return product


def _facts(problem, product, x, y, batch, more_batches, rng) -> Facts:
    f, F = scalar(problem.lower, "lower"), scalar(problem.upper, "upper")
    lower_batch = batches(batch)[1]
    y_flat, unravel = ravel_pytree(y)
    n = y_flat.size

    @jax.jit
    def gradient(y, b):
        return ravel_pytree(jax.grad(f, 1)(x, unravel(y), b))[0]

    def extremes(y, x=x, start=None):
        return _lanczos(lambda v: product(x, y, jnp.asarray(v, y.dtype)), n, rng, start=start)

    @jax.jit
    def system(y):
        b = ravel_pytree(jax.grad(F, 1)(x, unravel(y), batches(batch)[0]))[0].astype(y.dtype)
        return b, conjugate_gradient(lambda v: product(x, y, v), b, jnp.zeros_like(b), 200)[1]

    try:
        low, high = extremes(y_flat)
        twice = True
    except TypeError:  # A custom_vjp has no forward mode.
        low, high, twice = np.nan, np.nan, False
    if twice and not np.all(np.isfinite([low, high])):
        raise ValueError("the lower function's second derivatives at x and y must be finite")
    seen, unsolved = np.nan, np.nan
    if twice and problem.constraint is None:
        step = 1.0 / max(high, -low, 1e-12)

        @jax.jit
        def settle(y):
            def move(_, y):
                moved = y - jnp.asarray(step, y.dtype) * gradient(y, lower_batch)
                return ravel_pytree(onto_lower(problem, x, unravel(moved), step))[0]

            return jax.lax.fori_loop(0, 200, move, y)

        settled, places = settle(y_flat), [y_flat]
        if np.all(np.isfinite(settled)):
            again = extremes(settled)
            low, high = min(low, again[0]), max(high, again[1])
            places.append(settled)
            y_flat = settled
        pulls, lefts = zip(*(system(place) for place in places), strict=True)
        unsolved = max(map(float, lefts))
        seen = min(extremes(*at)[0] for at in zip(places, [x, x], pulls, strict=False))
        high = max([high, *(extremes(y_flat, end)[1] for end in _ends(problem, x))])
    kind = "nonconvex"
    slope = float(jnp.linalg.norm(gradient(y_flat, lower_batch)))
    rounding = 10 * n**0.5 * float(jnp.finfo(y_flat.dtype).eps)
    if twice:
        kind = "strongly convex" if low > rounding * high else "convex"
        kind = "nonconvex" if low < -rounding * max(high, -low) else kind
        kind = "linear" if max(high, -low) <= rounding * slope else kind
    gradients = [np.asarray(gradient(y_flat, batches(b)[1])) for b in (batch, *more_batches)]
    mean = np.mean(gradients, 0)
    spread = np.mean([np.linalg.norm(g - mean) for g in gradients])
    coupling = 0.0
    if problem.constraint is not None:
        g = lambda y: jnp.ravel(problem.constraint(x, unravel(y), lower_batch))  # noqa: E731
        _, pull = jax.vjp(g, y_flat)
        push = jax.jit(lambda v: jax.jvp(g, (y_flat,), (v,))[1])
        square = lambda v: pull(push(jnp.asarray(v, y_flat.dtype)))[0]  # noqa: E731
        coupling = _lanczos(square, n, rng)[1]
    return Facts(
        x_size=sum(np.size(a) for a in jax.tree.leaves(x)),
        y_size=n,
        largest=float(high),
        smallest=float(low),
        lower=kind,
        twice_differentiable=twice,
        noise=float(spread / (np.linalg.norm(mean) + 1e-12)) if more_batches else 0.0,
        coupling=float(coupling),
        seen=float(seen),
        unsolved=float(unsolved),
    )


def _ahead(problem, product, facts: Facts, x: Any, y: Any, batch: Any, rng) -> Facts:
    """Returns the facts with a curvature for which y still follows x after 500 iterations.

    Only where implicit differentiation fits and the lower Hessian changes with x.
    """

    def made():
        return _implicit(problem, facts, 1 / max(facts.largest, 1e-12), _upper_step(facts))

    if facts.noise > 0.01 or not _judge(problem, facts, made()).fits:
        return facts
    f, lower_batch = scalar(problem.lower, "lower"), batches(batch)[1]

    def largest(x, y):
        y, _ = ravel_pytree(y)
        return _lanczos(lambda v: product(x, y, jnp.asarray(v, y.dtype)), y.size, rng)[1]

    aside = jax.tree.map(lambda a: a + jnp.asarray(rng.standard_normal(a.shape), a.dtype), x)
    if abs(largest(x, y) - largest(aside, y)) <= 1e-3 * facts.largest:
        return facts

    def trial(solver):
        @jax.jit
        def run(x, y, batch):
            state = solver.init(problem, x, y)
            end = jax.lax.fori_loop(0, 500, lambda _, s: solver.step(s, batch)[0], state)
            slopes = [
                projected_gradient(problem.project_y, y, jax.grad(f, 1)(end.x, y, lower_batch))
                for y in (y, end.y)
            ]
            return end.x, end.y, slopes[1] <= 0.1 * slopes[0]

        return run(x, y, batch)

    for _ in range(6):
        *end, follows = trial(made())
        found = largest(*end) if follows else 2 * facts.largest
        if found <= 1.001 * facts.largest:
            break
        facts = facts._replace(largest=2 * found)
    return facts


def _ends(problem: Problem, x: Any) -> list[Any]:
    """Returns x with the entries that X bounds moved to where it ends, up and down."""
    if problem.project_x is None:
        return []
    far = 1e6

    def end(way):
        moved = problem.project_x(jax.tree.map(lambda a: a + jnp.asarray(way, a.dtype), x))
        return jax.tree.map(lambda e, a: jnp.where(jnp.abs(e - a) < far / 2, e, a), moved, x)

    return [end(far), end(-far)]


def _lanczos(
    matvec: Callable[[Any], Any], n: int, rng, steps: int = 40, start: Any = None
) -> tuple[float, float]:
    """Returns the smallest and the largest Ritz value of a symmetric matrix of size n.

    With ``start`` only those whose vectors have a part in it, in the space that its images span;
    0 where it is zero.
    """
    basis, products = np.zeros((0, n)), np.zeros((0, n))
    q = rng.standard_normal(n) if start is None else np.asarray(start, np.float64)
    if not np.any(q):
        return 0.0, 0.0
    for _ in range(min(n, steps)):
        before = np.linalg.norm(q)
        for _ in range(2):  # Twice is enough.
            q = q - basis.T @ (basis @ q)
        if np.linalg.norm(q) <= 1e-6 * before:
            # The space is invariant: a new direction finds what is orthogonal to it.
            q = rng.standard_normal(n)
            for _ in range(2):
                q = q - basis.T @ (basis @ q)
        basis = np.vstack([basis, q / np.linalg.norm(q)])
        q = np.asarray(matvec(basis[-1]), np.float64)
        products = np.vstack([products, q])
    projected = basis @ products.T
    values, vectors = np.linalg.eigh((projected + projected.T) / 2)
    if start is not None:
        values = values[np.abs(vectors[0]) > 1e-6]
    return float(values[0]), float(values[-1])


def _candidates(problem: Problem, facts: Facts) -> list[Solver]:
    """Returns the solvers with steps for this problem, in the order in which one would try them."""
    curvature = max(facts.largest, -facts.smallest, 1e-12) if facts.twice_differentiable else 10.0
    step = 1 / curvature
    exact = [_implicit(problem, facts, step, _upper_step(facts)), unrolled(lower_step=step)]
    if facts.noise > 0.01:
        alpha, gamma = f2sa_schedules("both", 0.03 * step * 1000 ** (5 / 7), step * 1000 ** (4 / 7))
        momentum = f3sa_schedules("both", 0.03 * step * 1000**0.6, step * 1000**0.4)
        single = penalty_schedules("both", gamma0=0.5 * step * 1000**0.4)
        first = [
            soba(lower_step=step),
            penalty(**single),
            f3sa(*momentum),
            f2sa(alpha, gamma),
        ]
        order = first + exact
    else:
        alpha, gamma = f2sa_schedules("none", 0.14 * step * 10 ** (1 / 3), step)
        momentum = f3sa_schedules("none", 0.14 * step * 10 ** (1 / 3), step)
        double = penalty_schedules("none", gamma0=0.5 * step)
        order = [*exact, penalty(**double), f2sa(alpha, gamma), soba(lower_step=step)]
        order.append(f3sa(*momentum))
    if problem.constraint is not None:
        return [_joint(facts, 1.0), *order]
    return [*order, lv_hba(**(lv_hba_steps() | {"lower_step": 0.5 / (curvature + 0.1)}))]


def _implicit(problem, facts: Facts, step: float, upper_step: Any, linear: str = "") -> Solver:
    """Returns implicit differentiation whose lower level settles by a factor e in an iteration.

    Nesterov's momentum and conjugate gradients need about the root of the condition number of
    steps for that; between 10 and 100 are made. With noise the steps are plain, and 10.
    """
    linear = linear or ("cg" if problem.project_y is None else "normal_cg")
    if facts.noise > 0.01 or not _settles(problem, facts):
        return implicit(linear, upper_step, step, linear_step=step)
    least = facts.smallest if facts.lower == "strongly convex" else facts.seen
    root = min((facts.largest / max(least, 1e-12)) ** 0.5, 100.0)
    count = max(int(np.ceil(root)), 10)
    momentum = optax.sgd(step, momentum=(root - 1) / (root + 1), nesterov=True)
    return implicit(
        linear, upper_step, momentum, inner_steps=count, linear_steps=count, linear_step=step
    )


def _upper_step(facts: Facts) -> Any:
    """Returns AdaGrad with momentum; with noise the default."""
    if facts.noise > 0.01:
        return None
    scale = optax.scale_by_rss(initial_accumulator_value=0.0, eps=1e-16)
    return optax.chain(scale, optax.trace(0.9), optax.scale(-0.03))


def _settles(problem: Problem, facts: Facts) -> bool:
    """Returns whether the lower level is strongly convex, in all that the upper one sees of it."""
    unseen = facts.lower == "convex" and problem.project_y is None and facts.unsolved <= 1e-3
    return facts.lower == "strongly convex" or unseen


def _joint(facts: Facts, scale: Any) -> Solver:
    """Returns LV-HBA for a constraint, with steps for the curvature, times ``scale``."""
    curvature = abs(facts.largest) + 1  # With that of the proximal term.
    step = scale / (curvature + 0.3 * facts.coupling)
    # The pair must not move faster than theta and the multipliers follow.
    both = jnp.minimum(0.1 * scale / curvature, step)
    return lv_hba(both, 0.02, step, 10.0, 0.3, lv_hba_schedule(3.0))


def _joint_scale(problem: Problem, facts: Facts, x: Any, y: Any, batch: Any) -> float:
    """Returns half the largest scale of LV-HBA's steps that is stable after 500 iterations."""
    ready = problem.project_xy is not None and problem.multiplier_bound is not None
    if not ready or batches(batch) != (None, None):
        return 0.1

    def worst(scale):
        solver = _joint(facts, scale)
        first, _ = solver.step(solver.init(problem, x, y), batch)

        def body(carry, _):
            state, metrics = solver.step(carry, batch)
            return state, metrics["residual"]

        last, residuals = jax.lax.scan(body, first, length=500)
        logs, _ = growth_of(solver.step, last, batch, 500, 0)
        return residuals, jnp.exp(jnp.mean(logs[250:]))

    scales = 0.5 ** np.arange(0, 12)
    residuals, radii = jax.device_get(jax.jit(jax.vmap(worst))(jnp.asarray(scales)))
    calm = np.all(np.isfinite(residuals), 1) & (residuals[:, -1] < residuals[:, 0])
    calm &= radii <= 1.001
    return float(scales[np.argmax(calm)] / 2) if calm.any() else float(scales[-1])


def _judge(problem: Problem, facts: Facts, solver: Solver) -> Advice:
    for name in ("project_y", "project_xy", "constraint", "nonsmooth"):
        if getattr(problem, name) is not None and name not in solver.constraints:
            return Advice(solver, False, f"it takes no {name}")
    if solver.gradients.products and not facts.twice_differentiable:
        return Advice(solver, False, "the lower gradient has no forward-mode derivative")
    if facts.lower == "linear" and problem.constraint is None:
        text = "the lower level is linear in y: its solution jumps with x, no error bound holds"
        return Advice(solver, False, text)
    settles = _settles(problem, facts)
    if _RANK[facts.lower] < _RANK[solver.lower] and not settles:
        text = f"the lower level is {facts.lower} there, not {solver.lower}"
        return Advice(solver, False, f"{text} (curvature from {facts.smallest:.3g})")
    if solver.name == "lv_hba" and problem.constraint is not None:
        for name in ("project_xy", "multiplier_bound"):
            if getattr(problem, name) is None:
                return Advice(solver, False, f"the problem has a constraint and no {name}")
    noise = f", noise {facts.noise:.2g}" if facts.noise else ""
    text = f"the lower level is {facts.lower} there: {facts.smallest:.3g} to {facts.largest:.3g}"
    if settles and facts.lower == "convex":
        text += f", and {facts.seen:.3g} from below in all that the upper level sees of it"
    return Advice(solver, True, text + noise)


def _stable_steps(problem, solver, facts, x, y, batch, rng) -> dict[float, float]:
    """Returns the spectral radius of the recommended iteration with constant upper steps."""
    made = {
        # The derivative of conjugate gradients that have converged is rounding.
        "implicit": lambda s, step: _implicit(problem, facts, step, s, "neumann"),
        "unrolled": lambda s, step: unrolled(20, s, step),
        "penalty": lambda s, step: penalty(s / 0.1, 0.8, 0.5 * step, 0.1, prox=1.0, inner_steps=5),
        "soba": lambda s, step: soba(step, s),
    }
    if solver.name not in made or not facts.twice_differentiable:
        return {}
    step = 1 / max(facts.largest, -facts.smallest, 1e-12)
    make = made[solver.name]
    state = make(1.0, step).init(problem, x, y)

    def radius(s):
        advance = make(s, step).step
        settled = jax.lax.fori_loop(0, 50, lambda _, st: advance(st, batch)[0], state)
        # From where a tiny upper step leaves y settled and x in its place.
        logs, _ = growth_of(advance, settled._replace(x=state.x), batch, 200, seed)
        return jnp.exp(jnp.mean(logs[100:]))

    seed = int(rng.integers(2**31))
    sizes = (0.001, 0.01, 0.1, 1.0, 10.0)
    found = jax.jit(jax.vmap(radius))(jnp.array(sizes))
    return {s: float(r) for s, r in zip(sizes, found, strict=True)}
