"""A Flax Linen model for the comparison: regression on the diabetes data, with its own objective.

python -m experiments.compare --model=examples/own_model_linen.py --budget=2m
"""

import flax.linen as nn
import jax.numpy as jnp
from sklearn.datasets import load_diabetes

steps = 400
batch_size = 32

data = load_diabetes(scaled=True)
inputs = (20 * data.data).astype("float32")
targets = ((data.target - data.target.mean()) / data.target.std()).astype("float32")[:, None]


class Network(nn.Module):
    """Two layers with dropout."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.gelu(nn.Dense(48)(x))
        x = nn.Dropout(0.1, deterministic=not train)(x)
        return nn.Dense(1)(x)


model = Network()


def objective(outputs, numbers):
    """Returns the mean absolute error; without this function it would be the squared one."""
    return jnp.abs(outputs - numbers).mean()
