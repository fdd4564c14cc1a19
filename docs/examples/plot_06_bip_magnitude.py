"""
BiP against magnitude
=====================

The same trained network is pruned twice: once by the size of its weights, then trained further under
the mask; and once by BiP, which learns the mask by its hypergradient. Both take as many gradients.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

import bilevel
from experiments import models

digits = load_digits()
x = jnp.asarray(digits.data / 16, jnp.float32)
y = jnp.asarray(digits.target)
model = models.build("mlp", input_shape=(64,), num_classes=10, widths=(100, 50))
STEPS = 300


def loss(params, batch):
    logits, _ = model.apply(params, {}, batch["x"], train=True)
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()


def accuracy(params):
    logits, _ = model.apply(params, {}, x[1400:], train=False)
    return 100 * float(jnp.mean(logits.argmax(-1) == y[1400:]))


def batches(start, seed=0):
    for t in range(start, 10**6):
        rows = np.random.default_rng((seed, t)).integers(0, 1400, 64)
        yield {"x": x[rows], "y": y[rows]}


def sgd(rate):
    return optax.sgd(optax.cosine_decay_schedule(rate, STEPS), momentum=0.9)


problem = bilevel.pruning.problem(loss)


def train(params, masks):
    solver = bilevel.sparse_training(sgd(0.1))
    state, _ = bilevel.solve(
        problem, solver, masks, params, lambda k: batches(k, 1), 2 * STEPS, history=False
    )
    return solver.export(state)


# %%
# A dense network, then both methods at four densities.

dense, _ = train(model.init(jax.random.key(0))[0], None)
found = {"magnitude": [], "BiP": []}
densities = (0.2, 0.1, 0.05, 0.02)
for density in densities:
    masks = bilevel.masks.from_scores(bilevel.criteria.magnitude(dense), density)
    found["magnitude"].append(accuracy(train(dense, masks)[0]))
    solver = bilevel.bip(sgd(0.1), sgd(10.0), density)
    pairs = lambda k: zip(batches(k, 2), batches(k, 3), strict=True)
    state, _ = bilevel.solve(problem, solver, None, dense, pairs, STEPS, history=False)
    params, masks = solver.export(state)
    found["BiP"].append(accuracy(params))
print(f"dense: {accuracy(dense):.1f} %")
print(bilevel.sparsity_report(params, masks))

# %%

figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
for (name, values), mark in zip(found.items(), ("s--", "o-"), strict=True):
    axis.plot([100 * (1 - d) for d in densities], values, mark, label=name)
axis.axhline(accuracy(dense), color="0.5", ls=":", label="dense")
axis.set(xlabel="sparsity (%)", ylabel="test accuracy (%)", title="Digits, one seed")
axis.set_xticks([100 * (1 - d) for d in densities])
axis.legend()
plt.show()
