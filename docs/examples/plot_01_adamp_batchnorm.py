"""
AdamP on a network with BatchNorm
=================================

Behind a normalization the scale of the weights does not matter, but momentum lets it grow, and the
effective step falls with it. AdamP removes the part of the step that points along the weights.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from flax import nnx
from sklearn.datasets import load_digits

import optim

digits = load_digits()
x = jnp.asarray(digits.data / 16, jnp.float32)
y = jnp.asarray(digits.target)

# %%
# A Flax NNX module as it is: the optimizer sees its parameters through ``nnx.Optimizer``.


class Network(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(64, 128, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(128, rngs=rngs)
        self.out = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, x):
        return self.out(jax.nn.relu(self.norm(self.hidden(x))))


@nnx.jit
def step(model, optimizer, x, y):
    def loss(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

    value, grads = nnx.value_and_grad(loss)(model)
    optimizer.update(model, grads)
    return value, jnp.linalg.norm(model.hidden.kernel[...])


def train(tx, steps=200):
    model = Network(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    rows = jax.random.randint(jax.random.key(1), (steps, 64), 0, 1500)
    curve = [step(model, optimizer, x[i], y[i]) for i in rows]
    model.eval()
    accuracy = jnp.mean(model(x[1500:]).argmax(-1) == y[1500:])
    return jnp.array(curve), float(accuracy)


runs = {"optax.adam": train(optax.adam(1e-2)), "optim.adamp": train(optim.adamp(1e-2))}
for name, (_, accuracy) in runs.items():
    print(f"{name}: {100 * accuracy:.1f} % on digits that it has not seen")

# %%
# The loss is much the same; the norm of the weights before BatchNorm is not.

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
for (name, (curve, _)), style in zip(runs.items(), ("-", "--"), strict=True):
    left.semilogy(jnp.convolve(curve[:, 0], jnp.ones(10) / 10, "valid"), style, label=name)
    right.plot(curve[:, 1], style, label=name)
left.set(xlabel="step", ylabel="cross-entropy (mean of 10 steps)", title="Loss")
right.set(xlabel="step", ylabel="norm", title="Weights before BatchNorm")
right.legend()
plt.show()
