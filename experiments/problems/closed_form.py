r"""Problems P1-P5: exact lower solutions, value functions and hypergradients.

With the lower function :math:`g`, the upper :math:`f` and :math:`h_\sigma = \sigma f + g`,

.. math::
  \psi(x) = \min_{y \in S(x)} f(x, y), \qquad
  \psi_\sigma(x) = \tfrac1\sigma \bigl(\min_y h_\sigma(x, y) - \min_y g(x, y)\bigr)

and :math:`\nabla\psi_\sigma = f_x(x, y_\sigma) + (g_x(x, y_\sigma) - g_x(x, y^*)) / \sigma`, where
:math:`y_\sigma` minimizes :math:`h_\sigma(x, \cdot)` and :math:`y^*` minimizes :math:`g(x, \cdot)`.

| id | lower function | what it shows |
|---|---|---|
| p1 | strongly convex quadratic | the gap is :math:`\tfrac\sigma2 q'(A+\sigma D)^{-1}q` exactly |
| p2a | rank-deficient quadratic, f sees My only | many lower solutions, uniform PL |
| p2b | the same g, f strongly convex in y | uniform error bound fails, O(sigma) holds |
| p3 | separable quadratic on a box | kinks where the active set changes |
| p4 | bilinear on a box | psi is discontinuous at 0: no O(sigma), solvers do not settle |
| p5 | nonconvex, Polyak-Lojasiewicz | one-dimensional sine |
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import bilevel
from experiments.problems.task import Level, Task

__all__ = ["PROBLEMS", "ClosedForm", "p1", "p2a", "p2b", "p3", "p4", "p5", "random_data", "task"]


class ClosedForm(NamedTuple):
    """A problem with its exact solutions; ``sigma`` > 0 everywhere."""

    problem: bilevel.Problem
    x0: np.ndarray
    y0: np.ndarray
    y_star: Callable[[Any], Any]  # x -> argmin g (the one psi takes, or of least norm)
    y_sigma: Callable[[Any, Any], Any]  # x, sigma -> argmin h_sigma
    psi: Callable[[Any], Any]
    grad_psi: Callable[[Any], Any]
    psi_sigma: Callable[[Any, Any], Any]
    minimizer: Callable[..., np.ndarray] | None = None  # sigma -> argmin psi_sigma; () -> of psi

    def grad_psi_sigma(self, x, sigma):
        """Gradient of psi_sigma by Danskin's theorem."""
        f, g = self.problem.upper, self.problem.lower
        y, z = self.y_sigma(x, sigma), self.y_star(x)
        g_x = jax.grad(g)
        return jax.grad(f)(x, y, None) + (g_x(x, y, None) - g_x(x, z, None)) / sigma


def p1(data, x0, y0) -> ClosedForm:
    """``g = .5 y'Ay - y'(Bx + b)``, ``f = .5 |y - c|_D^2 + .5 x'Ex + x'Ky``.

    A batch is ``None`` or the index i of a sample, which adds ``.5 y'dA[i]y - y'(dB[i]x + db[i])``
    to g and ``.5 y'dD[i]y + du[i]'y + dv[i]'x`` to f.
    """
    A, B, b, c, D, E, K = (np.asarray(data[k]) for k in ["A", "B", "b", "c", "D", "E", "K"])
    noise = {k: np.asarray(v) for k, v in data.items() if k.startswith("d")}

    def upper(x, y, i=None):
        value = 0.5 * (y - c) @ D @ (y - c) + 0.5 * x @ E @ x + x @ K @ y
        if i is None:
            return value
        du, dv, dD = (jnp.asarray(noise[k])[i] for k in ["du", "dv", "dD"])
        return value + 0.5 * y @ dD @ y + du @ y + dv @ x

    def lower(x, y, i=None):
        value = 0.5 * y @ A @ y - y @ (B @ x + b)
        if i is None:
            return value
        dA, dB, db = (jnp.asarray(noise[k])[i] for k in ["dA", "dB", "db"])
        return value + 0.5 * y @ dA @ y - y @ (dB @ x + db)

    def y_star(x):
        return jnp.linalg.solve(A, B @ x + b)

    def psi(x):
        return upper(x, y_star(x))

    def y_sigma(x, sigma):
        return jnp.linalg.solve(A + sigma * D, B @ x + b + sigma * (D @ c - K.T @ x))

    def f_y(x):
        return D @ (y_star(x) - c) + K.T @ x

    def grad_psi(x):
        return E @ x + K @ y_star(x) + B.T @ jnp.linalg.solve(A, f_y(x))

    def psi_sigma(x, sigma):
        q = f_y(x)
        return psi(x) - 0.5 * sigma * q @ jnp.linalg.solve(A + sigma * D, q)

    problem = bilevel.Problem(upper=upper, lower=lower)
    form = ClosedForm(problem, x0, y0, y_star, y_sigma, psi, grad_psi, psi_sigma)
    return _quadratic_minimizer(form)


def p2a(data, x0, y0) -> ClosedForm:
    """``g = .5 |My - Nx - q|^2`` with M of deficient rank, ``f = .5 |My - t|^2 + .5 reg |x|^2``."""
    M, N, q, t = (np.asarray(data[k]) for k in ["M", "N", "q", "t"])
    reg, pinv = data["reg"], np.linalg.pinv(M)

    def upper(x, y, batch=None):
        return 0.5 * jnp.sum((M @ y - t) ** 2) + 0.5 * reg * x @ x

    def y_sigma(x, sigma):
        return pinv @ (N @ x + q + sigma * t) / (1 + sigma)

    def psi_sigma(x, sigma):
        return 0.5 * jnp.sum((N @ x + q - t) ** 2) / (1 + sigma) + 0.5 * reg * x @ x

    form = ClosedForm(
        problem=bilevel.Problem(upper=upper, lower=_linear_fit(M, N, q)),
        x0=x0,
        y0=y0,
        y_star=lambda x: pinv @ (N @ x + q),
        y_sigma=y_sigma,
        psi=lambda x: psi_sigma(x, 0.0),
        grad_psi=lambda x: N.T @ (N @ x + q - t) + reg * x,
        psi_sigma=psi_sigma,
    )
    return _quadratic_minimizer(form)


def p2b(data, x0, y0) -> ClosedForm:
    """``g = .5 |My - Nx - q|^2`` rank-deficient M, ``f = .5 |y - c|_D^2 + .5 reg |x|^2``."""
    M, N, q, c, D = (np.asarray(data[k]) for k in ["M", "N", "q", "c", "D"])
    reg = data["reg"]
    lift = np.linalg.solve(D, M.T)  # D^-1 M'
    W = np.linalg.inv(M @ lift)
    identity = np.eye(len(q))

    def e(x):
        return N @ x + q - M @ c

    def upper(x, y, batch=None):
        return 0.5 * (y - c) @ D @ (y - c) + 0.5 * reg * x @ x

    def psi_sigma(x, sigma):
        value = e(x) @ jnp.linalg.solve(sigma * identity + M @ lift, e(x))
        return 0.5 * value + 0.5 * reg * x @ x

    form = ClosedForm(
        problem=bilevel.Problem(upper=upper, lower=_linear_fit(M, N, q)),
        x0=x0,
        y0=y0,
        y_star=lambda x: c + lift @ (W @ e(x)),
        y_sigma=lambda x, s: c + lift @ jnp.linalg.solve(s * identity + M @ lift, e(x)),
        psi=lambda x: 0.5 * e(x) @ W @ e(x) + 0.5 * reg * x @ x,
        grad_psi=lambda x: N.T @ (W @ e(x)) + reg * x,
        psi_sigma=psi_sigma,
    )
    return _quadratic_minimizer(form)


def _linear_fit(M, N, q):
    return lambda x, y, batch=None: 0.5 * jnp.sum((M @ y - N @ x - q) ** 2)


def p3(data, x0, y0) -> ClosedForm:
    """``g = .5 sum a_i (y_i - (Px)_i)^2`` on a box, ``f = .5 |y - c|^2 + .5 reg |x - xh|^2``."""
    P, a, c, xh = (np.asarray(data[k]) for k in ["Pm", "a", "c", "xh"])
    lo, hi, reg = np.asarray(data["lo"]), np.asarray(data["hi"]), data["reg"]
    xlo, xhi = np.asarray(data["xlo"]), np.asarray(data["xhi"])

    def upper(x, y, batch=None):
        return 0.5 * jnp.sum((y - c) ** 2) + 0.5 * reg * jnp.sum((x - xh) ** 2)

    def lower(x, y, batch=None):
        return 0.5 * jnp.sum(a * (y - P @ x) ** 2)

    def y_star(x):
        return jnp.clip(P @ x, lo, hi)

    def y_sigma(x, sigma):
        return jnp.clip((a * (P @ x) + sigma * c) / (a + sigma), lo, hi)

    def grad_psi(x):
        y = P @ x
        free = (lo < y) & (y < hi)
        return reg * (x - xh) + P.T @ jnp.where(free, y_star(x) - c, 0.0)

    def psi_sigma(x, sigma):
        # Differences of the two minima coordinate by coordinate, so that small sigma loses nothing.
        y, z, target = y_sigma(x, sigma), y_star(x), P @ x
        inner = 0.5 * a * (y - z) * (y + z - 2 * target) / sigma + 0.5 * (y - c) ** 2
        return jnp.sum(inner) + 0.5 * reg * jnp.sum((x - xh) ** 2)

    problem = bilevel.Problem(
        upper=upper,
        lower=lower,
        project_x=lambda x: jnp.clip(x, xlo, xhi),
        project_y=lambda y: jnp.clip(y, lo, hi),
    )
    return ClosedForm(
        problem, x0, y0, y_star, y_sigma, lambda x: upper(x, y_star(x)), grad_psi, psi_sigma
    )


def p4(data=None, x0=None, y0=None) -> ClosedForm:
    r"""``g = xy``, ``f = x^2 + y^2`` on :math:`[-1, 1]^2`; ``psi = x^2 + 1`` but ``psi(0) = 0``.

    psi_sigma rises from 0 with slope 1 / sigma and joins psi at \|x\| = 2 sigma, so that the gap's
    supremum does not fall with sigma.
    """
    del data

    def y_star(x):
        return -jnp.sign(x)

    def y_sigma(x, sigma):
        return jnp.clip(-x / (2 * sigma), -1.0, 1.0)

    def psi_sigma(x, sigma):
        r = jnp.abs(x[0])
        return x[0] ** 2 + jnp.where(r <= 2 * sigma, r / sigma - (r / (2 * sigma)) ** 2, 1.0)

    def box(u):
        return jnp.clip(u, -1.0, 1.0)

    problem = bilevel.Problem(
        upper=lambda x, y, batch=None: x @ x + y @ y,
        lower=lambda x, y, batch=None: x @ y,
        project_x=box,
        project_y=box,
    )
    return ClosedForm(
        problem=problem,
        x0=np.full(1, 0.5) if x0 is None else x0,
        y0=np.full(1, -0.5) if y0 is None else y0,
        y_star=y_star,
        y_sigma=y_sigma,
        psi=lambda x: x[0] ** 2 + jnp.where(x[0] == 0, 0.0, 1.0),
        grad_psi=lambda x: 2 * x,
        psi_sigma=psi_sigma,
        minimizer=lambda sigma=0.0: np.zeros(1),
    )


def p5(data=None, x0=None, y0=None) -> ClosedForm:
    """``g = t^2 + 3 sin^2 t`` with ``t = y - x``, ``f = .5 (y - 1)^2 + .05 x^2``; x* = 1 / 1.1."""
    del data

    def minimizer(sigma=0.0):
        if sigma:
            raise ValueError(f"the minimizer is known at sigma = 0 only, got {sigma}")
        return np.full(1, 1 / 1.1)

    def upper(x, y, batch=None):
        return 0.5 * jnp.sum((y - 1) ** 2) + 0.05 * x @ x

    def lower(x, y, batch=None):
        t = y - x
        return jnp.sum(t**2 + 3 * jnp.sin(t) ** 2)

    def y_sigma(x, sigma):
        def newton(_, t):
            slope = 2 * t + 3 * jnp.sin(2 * t) + sigma * (x + t - 1)
            return t - slope / (2 + 6 * jnp.cos(2 * t) + sigma)

        return x + jax.lax.fori_loop(0, 20, newton, sigma * (1 - x) / (8 + sigma))

    def psi_sigma(x, sigma):
        y = y_sigma(x, sigma)
        return lower(x, y) / sigma + upper(x, y)

    return ClosedForm(
        problem=bilevel.Problem(upper=upper, lower=lower),
        x0=np.full(1, -1.0) if x0 is None else x0,
        y0=np.full(1, 0.5) if y0 is None else y0,
        y_star=lambda x: x,
        y_sigma=y_sigma,
        psi=lambda x: upper(x, x),
        grad_psi=lambda x: x - 1 + 0.1 * x,
        psi_sigma=psi_sigma,
        minimizer=minimizer,
    )


def _quadratic_minimizer(form: ClosedForm) -> ClosedForm:
    """Adds the minimizers of a problem whose psi and psi_sigma are quadratic in x."""

    @jax.jit
    def of_gradient(sigma):
        def grad(x):
            return jax.lax.cond(
                sigma > 0, lambda: form.grad_psi_sigma(x, sigma), lambda: form.grad_psi(x)
            )

        zero = jnp.zeros(form.x0.shape)
        return jnp.linalg.solve(jax.jacfwd(grad)(zero), -grad(zero))

    return form._replace(minimizer=lambda sigma=0.0: np.asarray(of_gradient(sigma)))


def random_data(name: str, seed: int = 0, samples: int = 16) -> tuple[dict, np.ndarray, np.ndarray]:
    """Random data for ``name``, with a start; per-sample terms of p1 have mean zero."""
    rng = np.random.default_rng(seed)

    def spd(n, low, high):
        q, _ = np.linalg.qr(rng.normal(size=(n, n)))
        return (q * np.linspace(low, high, n)) @ q.T

    if name == "p1":
        nx, ny = 5, 6
        data = {
            "A": spd(ny, 0.5, 2.0),
            "B": 0.5 * rng.normal(size=(ny, nx)),
            "b": rng.normal(size=ny),
            "c": rng.normal(size=ny),
            "D": spd(ny, 0.5, 2.0),
            "E": spd(nx, 1.0, 2.0),
            "K": 0.2 * rng.normal(size=(nx, ny)),
        }
        shapes = {"dA": (ny, ny), "dB": (ny, nx), "db": (ny,), "dD": (ny, ny), "du": (ny,)}
        for key, shape in {**shapes, "dv": (nx,)}.items():
            noise = 0.2 * rng.normal(size=(samples, *shape))
            if key in ("dA", "dD"):
                noise = 0.5 * (noise + noise.swapaxes(1, 2))
            data[key] = noise - noise.mean(0)
    elif name in ("p2a", "p2b"):
        nx, ny, m = 4, 7, 3
        data = {"M": rng.normal(size=(m, ny)), "N": rng.normal(size=(m, nx))}
        data |= {"q": rng.normal(size=m), "t": rng.normal(size=m), "reg": 0.3}
        data |= {"c": rng.normal(size=ny), "D": spd(ny, 0.5, 2.0)}
    elif name == "p3":
        nx, ny = 4, 8
        data = {"Pm": rng.normal(size=(ny, nx)), "a": rng.uniform(0.5, 2.0, ny)}
        data |= {"c": 2 * rng.normal(size=ny), "xh": rng.normal(size=nx), "reg": 0.2}
        data |= {"lo": -np.ones(ny), "hi": np.ones(ny)}
        data |= {"xlo": -2 * np.ones(nx), "xhi": 2 * np.ones(nx)}
    elif name in ("p4", "p5"):
        nx, ny, data = 1, 1, {}
    else:
        raise ValueError(f"name must be one of {', '.join(PROBLEMS)}, got {name!r}")
    return data, rng.normal(size=nx), rng.normal(size=ny)


PROBLEMS = {"p1": p1, "p2a": p2a, "p2b": p2b, "p3": p3, "p4": p4, "p5": p5}


def task(name: str) -> Callable[..., Task]:
    """Returns the function ``(seed, noisy) -> Task`` of the main for ``name``."""

    def build(seed: int = 0, noisy: bool = False) -> Task:
        """``noisy`` draws one of p1's samples at a time instead of taking their mean."""
        if noisy and name != "p1":
            raise ValueError(f"only p1 is a finite sum, got noisy=True for {name}")
        form = PROBLEMS[name](*random_data(name, seed))
        sets = form.problem.project_x, form.problem.project_y
        x0, y0 = (
            start if project is None else np.asarray(project(start))
            for start, project in zip((form.x0, form.y0), sets, strict=True)
        )
        best = None if form.minimizer is None else form.minimizer()

        def evaluate(data, x, y):
            scores = {
                "objective": form.psi(x),
                "gradient": jnp.linalg.norm(form.grad_psi(x)),
                "y_gap": jnp.linalg.norm(y - form.y_star(x)),
            }
            if best is not None:
                scores |= {"gap": form.psi(x) - form.psi(best), "x_gap": jnp.linalg.norm(x - best)}
            return scores

        level = Level(16, lambda data, index: index[..., 0]) if noisy else None
        return Task(form.problem, x0, y0, evaluate, upper=level, lower=level)

    return build
