"""A model of plain functions for the comparison: polynomial regression with a learned basis.

python -m experiments.compare --model=examples/own_model_functions.py --budget=2m
"""

import jax
import jax.numpy as jnp
import numpy as np

steps = 600


def init(key):
    """Returns the parameters: a pytree of arrays."""
    first, second = jax.random.split(key)
    return {
        "frequencies": 3 * jax.random.normal(first, (32,)),
        "phases": jnp.zeros(32),
        "weights": 0.1 * jax.random.normal(second, (32,)),
    }


def predict(params, x):
    """Returns a sum of sines."""
    angles = x[:, None] * params["frequencies"][None] + params["phases"][None]
    return jnp.sin(angles) @ params["weights"]


def loss(params, batch, key):
    """Returns the scalar that is differentiated; ``key`` is for dropout and the like."""
    del key
    return jnp.mean((predict(params, batch["x"]) - batch["y"]) ** 2)


def batches(step, seed):
    """Returns the batch of a step: the same each time that it is asked for."""
    rng = np.random.default_rng([seed, step])
    x = rng.uniform(-1, 1, 64).astype(np.float32)
    y = np.sign(np.sin(7 * x)) * x + 0.1 * rng.normal(size=64)
    return {"x": x, "y": y.astype(np.float32)}


def evaluate(params):
    """Returns numbers without noise; the first decides."""
    x = jnp.linspace(-1, 1, 401)
    y = jnp.sign(jnp.sin(7 * x)) * x
    return {"squared error": jnp.mean((predict(params, x) - y) ** 2)}
