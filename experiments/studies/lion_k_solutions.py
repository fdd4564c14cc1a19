"""Which problem each kappa of Lion-K solves: its limit on quadratics against the solution."""

import jax
import jax.numpy as jnp
import numpy as np

import optim

LAMBDA = 0.5


def _project(name, x):
    """The projection on the set of the constraint, for the kappas that have one."""
    if name == "l1":
        return jnp.clip(x, -1 / LAMBDA, 1 / LAMBDA)
    norm = jnp.linalg.norm(x)  # The norms of l2 balls.
    return x * jnp.minimum(1.0, 1 / (LAMBDA * norm))


def _solution(name, q, b):
    """The minimum of x'Qx/2 - b'x + K*(lambda x)/lambda, by projected gradients."""
    ridge = {"l2_squared": LAMBDA, "huber": LAMBDA}.get(name, 0.0)
    h = q + ridge * jnp.eye(len(b))
    if name == "l2_squared":
        return jnp.linalg.solve(h, b)
    step = 1 / jnp.linalg.norm(h, 2)
    kind = "l1" if name in ("l1", "huber") else "l2"

    def body(_, x):
        return _project(kind, x - step * (h @ x - b))

    return jax.lax.fori_loop(0, 20000, body, jnp.zeros_like(b))


def measure(seeds: int, kappa: str, size: int, steps: int) -> list[dict[str, float]]:
    """Minimizes random quadratics by Lion-K with a rate that falls to zero.

    Args:
      seeds: Number of quadratics.
      kappa: ``"l1"``, ``"huber"``, ``"l2"`` (the norm) or ``"l2_squared"``.
      size: Number of variables.
      steps: Number of steps.

    Returns:
      For each seed the distance to the solution of the problem with the kappa's constraint or
      penalty, over its norm, and the same to the minimum of the quadratic alone.
    """
    with jax.enable_x64(True):
        kappas = {
            "l1": optim.kappas.l1,
            "huber": optim.kappas.huber(1.0),
            "l2": optim.kappas.l2,
            "l2_squared": optim.kappas.l2_squared,
        }

        @jax.jit
        def run(q, b):
            tx = optim.lion_k(lambda t: 0.1 / (1 + 0.02 * t), kappas[kappa], weight_decay=LAMBDA)

            def step(carry, _):
                x, state = carry
                updates, state = tx.update(q @ x - b, state, x)
                return (x + updates, state), None

            start = jnp.zeros_like(b)
            (x, _), _ = jax.lax.scan(step, (start, tx.init(start)), None, steps)
            right, free = _solution(kappa, q, b), jnp.linalg.solve(q, b)
            return {
                "distance": jnp.linalg.norm(x - right) / jnp.linalg.norm(right),
                "unconstrained": jnp.linalg.norm(right - free) / jnp.linalg.norm(right),
            }

        rows: list[dict[str, float]] = []
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            a = rng.normal(size=(2 * size, size))
            q = a.T @ a / (2 * size)
            b = q @ (4 * rng.normal(size=size))
            found = run(jnp.asarray(q), jnp.asarray(b))
            rows.append({str(k): float(v) for k, v in found.items()})
        return rows
