r"""The LV-HBA paper's synthetic problems, and a toy with an inequality.

LLC (lower level merely convex, constraint couples both): optimum x = -.3, y1 = .7, y2 = -.4.
LLSC (strongly convex lower level, n = 100, 90 equalities): no closed form; best known F -0.7193.
Toy: hyper-objective F(x, x) on [0, 3] with four local minima.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

import bilevel
from bilevel import projections
from experiments.problems.task import Task

__all__ = ["llc", "llsc", "llsc_matrices", "toy"]


def llc(
    n: int = 100, multiplier_bound: float = 1000.0, random: bool = False, seed: int = 0
) -> Task:
    r"""``F = .5 |x - y2|^2 + .5 |y1 - 1|^2``, ``f = .5 |y1|^2 - x'y1 + 1'y2``, all sum to 0.

    Unless ``random``, it starts where the authors' script does: y = 10, x shifted onto the set.
    """

    def upper(x, y, batch=None):
        return 0.5 * jnp.sum((x - y["y2"]) ** 2) + 0.5 * jnp.sum((y["y1"] - 1) ** 2)

    def lower(x, y, batch=None):
        return 0.5 * jnp.sum(y["y1"] ** 2) - x @ y["y1"] + jnp.sum(y["y2"])

    def constraint(x, y, batch=None):
        return (jnp.sum(x) + jnp.sum(y["y1"]) + jnp.sum(y["y2"]))[None]

    problem = bilevel.Problem(
        upper=upper,
        lower=lower,
        constraint=constraint,
        project_xy=projections.joint(projections.affine(np.ones((1, 3 * n)))),
        multiplier_bound=multiplier_bound,
        equality=True,
    )
    if not random:
        y1, y2 = np.full((2, n), 10.0)
        x0 = np.full(n, -20.0)
    else:
        x0, y1, y2 = np.random.default_rng(seed).normal(size=(3, n))
        x0 -= (x0.sum() + y1.sum() + y2.sum()) / n

    def evaluate(data, x, y):
        off = jnp.sum((x + 0.3) ** 2), jnp.sum((y["y1"] - 0.7) ** 2), jnp.sum((y["y2"] + 0.4) ** 2)
        size = n * jnp.array([0.3**2, 0.7**2, 0.4**2])
        return {
            "objective": upper(x, y),
            "x_error": jnp.sqrt(off[0] / size[0]),
            "error": jnp.sqrt(sum(off) / jnp.sum(size)),
        }

    return Task(problem, x0, {"y1": y1, "y2": y2}, evaluate)


def llsc_matrices(seed: int = 0, n: int = 100, m: int = 90, rank: int = 45) -> dict:
    """Random A, B, H of shape ``(m, n)``, B of the given rank, and c, d of shape ``(n,)``."""
    rng = np.random.default_rng(seed)
    a, h = rng.normal(size=(2, m, n))
    b = rng.normal(size=(m, rank)) @ rng.normal(size=(rank, n)) / math.sqrt(rank)
    c, d = rng.normal(size=(2, n)) / math.sqrt(n)
    return {"A": a, "B": b, "H": h, "c": c, "d": d}


def llsc(
    matrices: str | dict = "",
    seed: int = 0,
    multiplier_bound: float = math.inf,
    orthonormal: bool = False,
) -> Task:
    """``F = sin(c'x + d'y) + log(|x + y|^2 + 1)``, ``f = .5 |x - y|^2``, Ay + Hx = 0, Bx = 0.

    Args:
      matrices: An ``.npz`` file (or dict) with A, B, H of one shape ``(m, n)`` and c, d of shape
        ``(n,)``; empty for random ones.
      seed: Of the start, standard normal and then projected.
      multiplier_bound: r; the authors' script has none.
      orthonormal: Writes the same set as V'y + S^-1 U'Hx = 0, A = USV', so that the multipliers
        follow at large steps, and leaves theta to them as in the paper. The authors' script
        projects theta onto the set instead: g is then zero and the multipliers never learn.
    """
    if matrices and isinstance(matrices, str):
        with np.load(matrices) as stored:
            matrices = {k: stored[k] for k in stored.files}
    m = matrices if isinstance(matrices, dict) else llsc_matrices()
    A, B, H, c, d = (np.asarray(m[k]) for k in ["A", "B", "H", "c", "d"])
    n = A.shape[1]

    def upper(x, y, batch=None):
        return jnp.sin(c @ x + d @ y) + jnp.log(jnp.sum((x + y) ** 2) + 1)

    onto = projections.affine(np.block([[H, A], [B, np.zeros_like(A)]]))
    rows, coupling = A, H
    if orthonormal:
        u, s, rows = np.linalg.svd(A, full_matrices=False)
        coupling = (u / s).T @ H
    problem = bilevel.Problem(
        upper=upper,
        lower=lambda x, y, batch=None: 0.5 * jnp.sum((x - y) ** 2),
        constraint=lambda x, y, batch=None: rows @ y + coupling @ x,
        project_xy=projections.joint(onto),
        multiplier_bound=multiplier_bound,
        equality=True,
    )
    pinv = np.linalg.pinv(A)
    kernel, shift = np.eye(n) - pinv @ A, pinv @ H

    def evaluate(data, x, y):
        y_star = kernel @ x - shift @ x
        gap = jnp.linalg.norm(y - y_star)
        return {"objective": upper(x, y), "psi": upper(x, y_star), "y_gap": gap}

    x0, y0 = np.random.default_rng(seed).normal(size=(2, n))
    x0, y0 = jax.device_get(jax.jit(onto)((x0, y0)))
    if orthonormal:
        return Task(problem, x0, y0, evaluate)
    lower_set = projections.affine(A)
    return Task(problem, x0, y0, evaluate, project_theta=lambda theta, x: lower_set(theta, -H @ x))


def toy(seed: int = 0, multiplier_bound: float = 8.0) -> Task:
    """``F = e^(2-y) / (2 + cos 6x) + .5 log((4x-2)^2 + 1)``, ``f = (y - 2x)^2``.

    The constraint is y <= x, and x lies in [0, 3].
    """

    def upper(x, y, batch=None):
        return jnp.exp(2 - y) / (2 + jnp.cos(6 * x)) + 0.5 * jnp.log((4 * x - 2) ** 2 + 1)

    def project_xy(x, y):
        # Onto the half-plane y <= x, and onto the faces of [0, 3] where that leaves it.
        x = jnp.clip(x + jnp.maximum(y - x, 0) / 2, 0, 3)
        return x, jnp.minimum(y, x)

    problem = bilevel.Problem(
        upper=upper,
        lower=lambda x, y, batch=None: (y - 2 * x) ** 2,
        constraint=lambda x, y, batch=None: y - x,
        project_xy=project_xy,
        multiplier_bound=multiplier_bound,
    )

    def evaluate(data, x, y):
        return {"objective": upper(x, y), "psi": upper(x, x), "x": x, "y_gap": jnp.abs(y - x)}

    rng = np.random.default_rng(seed)
    x0, y0 = rng.uniform(0, 3), rng.uniform(-2, 3)
    return Task(problem, np.asarray(x0), np.asarray(min(x0, y0)), evaluate)
