"""Minimizing a function that is known only through rankings of points."""

import jax
import jax.numpy as jnp

import optim


def _quadratic(x, _=None):
    return (jnp.linspace(1.0, 10.0, x.size) * (x - 1) ** 2).sum()


def _rosenbrock(x, _=None):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


FUNCTIONS = {"quadratic": _quadratic, "rosenbrock": _rosenbrock}


def measure(seeds: int, function: str, size: int, steps: int) -> list[dict[str, float]]:
    """Runs ZO-RankSGD from zero.

    Returns:
      For each seed the value at the end over that at the start.
    """
    f = FUNCTIONS[function]
    zo = optim.zeroth_order
    solver = zo.rank_sgd(zo.by_value(f), samples=20, best=10, mu=0.01, line=10)

    @jax.jit
    def run(key):
        def step(state, _):
            return solver.step(state, None)

        start = jnp.zeros(size)
        state, _ = jax.lax.scan(step, solver.init(start, key), None, steps)
        return f(state.params) / f(start)

    return [{"share": float(run(jax.random.key(seed)))} for seed in range(seeds)]
