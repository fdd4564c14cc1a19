"""A Flax NNX model for the comparison: a small network with BatchNorm on handwritten digits.

python -m experiments.compare --model=examples/own_model_nnx.py --budget=5m
"""

import jax
from flax import nnx
from sklearn.datasets import load_digits

steps = 500
batch_size = 64

digits = load_digits()
inputs = (digits.data / 16).astype("float32")
targets = digits.target.astype("int32")


class Network(nnx.Module):
    """Two layers, the first with BatchNorm."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(64, 64, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(64, rngs=rngs)
        self.out = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        return self.out(jax.nn.relu(self.norm(self.hidden(x))))


model = Network  # A function of rngs: every seed starts elsewhere.
