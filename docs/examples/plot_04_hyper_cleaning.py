"""
Hyper-cleaning: find wrong labels
=================================

Half of the training labels are wrong. The upper variable is a weight for each training sample, the
lower one a linear classifier trained with these weights; the upper function is the loss on a few clean
samples.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

import bilevel

digits = load_digits()
x = np.asarray(digits.data / 16 - 0.3, np.float32)
y = np.asarray(digits.target)
rng = np.random.default_rng(0)
train, valid, test = np.split(rng.permutation(len(x)), [600, 900])
wrong = rng.random(600) < 0.5
labels = np.where(wrong, (y[train] + rng.integers(1, 10, 600)) % 10, y[train])

# %%
# Two functions are the problem.


def cross_entropy(w, inputs, labels):
    return optax.softmax_cross_entropy_with_integer_labels(inputs @ w, labels)


problem = bilevel.Problem(
    upper=lambda s, w, batch: cross_entropy(w, x[valid], y[valid]).mean(),
    lower=lambda s, w, batch: (
        jnp.mean(jax.nn.sigmoid(s) * cross_entropy(w, x[train], labels)) + 1e-3 * jnp.sum(w**2)
    ),
)
solver = bilevel.implicit(upper_step=optax.adam(0.1), lower_step=1.0)
state, metrics = bilevel.solve(problem, solver, jnp.zeros(600), jnp.zeros((64, 10)), steps=300)

# %%
# Beside it, the same classifier without weights.


def accuracy(w):
    return 100 * float(jnp.mean((x[test] @ w).argmax(-1) == y[test]))


plain, step = jnp.zeros((64, 10)), jax.jit(jax.grad(problem.lower, argnums=1))
for _ in range(500):
    plain = plain - 1.0 * step(jnp.full(600, 20.0), plain, None)
print(
    f"test accuracy: {accuracy(plain):.1f} % without weights, {accuracy(state.y):.1f} % with them"
)

# %%

weights = np.asarray(jax.nn.sigmoid(state.x))
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
left.plot(metrics["upper"])
left.set(xlabel="iteration", ylabel="loss on clean samples", title="Upper level")
bins = np.linspace(0, 1, 21)
right.hist(weights[~wrong], bins, alpha=0.8, label="right labels")
right.hist(weights[wrong], bins, alpha=0.8, label="wrong labels", hatch="//", edgecolor="k")
right.set(xlabel="learned weight", ylabel="samples", title="Weights")
right.legend()
plt.show()
