"""Three functions of one variable with a local minimum: where diffGrad and Adam end."""

import jax
import jax.numpy as jnp
import optax

import optim


def _two_parabolas(x):
    return jnp.where(x <= 0, (x + 0.3) ** 2, (x - 0.2) ** 2 + 0.05)


def _waves(x):
    return jnp.where(x <= -0.9, -40 * x - 35.15, x**3 + x * jnp.sin(8 * x) + 0.85)


def _kinks(x):
    return jnp.where(
        jnp.abs(x) > 0.5,
        x**2,
        jnp.where(jnp.abs(x) > 0.4, 0.75 - jnp.abs(x), 7 * jnp.abs(x) / 8),
    )


FUNCTIONS = {"parabolas": _two_parabolas, "waves": _waves, "kinks": _kinks}


def measure(seeds: int, function: str, rate: float, steps: int, starts: int) -> list:
    """Runs both from a grid of starts in [-1, 1], with full gradients.

    Returns:
      One row, for there is no chance: the share of starts from which each ends within 0.02 of the
      least value that the function takes on the grid, and the mean values at the end.
    """
    f = FUNCTIONS[function]
    grid = jnp.linspace(-1.0, 1.0, starts)
    least = f(jnp.linspace(-1.0, 1.0, 20001)).min()

    def end(tx, x):
        def step(carry, _):
            x, state = carry
            updates, state = tx.update(jax.grad(f)(x), state, x)
            return (optax.apply_updates(x, updates), state), None

        (x, _), _ = jax.lax.scan(step, (x, tx.init(x)), None, steps)
        return f(x)

    row = {}
    for name, tx in (("diffgrad", optim.diffgrad(rate)), ("adam", optax.adam(rate))):
        values = jax.jit(jax.vmap(lambda x, tx=tx: end(tx, x)))(grid)
        row[f"{name} share"] = (values < least + 0.02).mean()
        row[f"{name} value"] = values.mean()
    row["gain"] = row["diffgrad share"] - row["adam share"]
    return [row] * seeds
