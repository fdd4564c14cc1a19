"""
A fair comparison on one's own model
====================================

Each optimizer gets the same steps, the same seeds, and learning rates of its own range; what counts is
its best mean over seeds, and how wide the range is that serves. ``python -m experiments.compare
--model=FILE --budget=5m`` does this with successive halving and tests; here it is by hand.
"""

import itertools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

import optim

digits = load_digits()
x = np.asarray(digits.data / 16, np.float32)
y = np.asarray(digits.target, np.int32)
train, valid = slice(0, 1400), slice(1400, None)


def logits_of(params, inputs):
    return jnp.tanh(inputs @ params["a"]) @ params["b"]


def loss(params, batch):
    logits = logits_of(params, batch["x"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()


def batches(start):
    for t in itertools.count(start):
        rows = np.random.default_rng(t).integers(0, 1400, 64)
        yield {"x": x[rows], "y": y[rows]}


# %%
# Learning rates times seeds are one population of the loop.

STEPS, SEEDS = 200, 3


def compare(make, rates):
    tx = optax.inject_hyperparams(make)(learning_rate=0.0)

    def step(state, batch):
        value, grads = jax.value_and_grad(loss)(state[0], batch)
        updates, opt_state = tx.update(grads, state[1], state[0])
        return (optax.apply_updates(state[0], updates), opt_state), {"loss": value}

    def start(seed, rate):
        keys = jax.random.split(jax.random.key(seed))
        params = {
            "a": 0.2 * jax.random.normal(keys[0], (64, 24)),
            "b": 0.2 * jax.random.normal(keys[1], (24, 10)),
        }
        state = tx.init(params)
        state.hyperparams["learning_rate"] = rate
        return params, state

    seeds, all_rates = np.tile(np.arange(SEEDS), len(rates)), np.repeat(rates, SEEDS)
    states = jax.vmap(start)(seeds, all_rates.astype(np.float32))
    params, _ = optim.loop.run(step, states, batches, STEPS, replicas=len(seeds))
    right = jax.vmap(lambda p: jnp.mean(logits_of(p, x[valid]).argmax(-1) == y[valid]))(params)
    return 100 * np.asarray(right).reshape(len(rates), SEEDS)


ranges = {
    "optax.adamw": (optax.adamw, np.geomspace(1e-4, 1e-1, 7)),
    "optim.adamp": (optim.adamp, np.geomspace(1e-4, 1e-1, 7)),
    "optim.lion": (optim.lion, np.geomspace(1e-5, 1e-2, 7)),
}
found = {name: (rates, compare(make, rates)) for name, (make, rates) in ranges.items()}
for name, (rates, values) in found.items():
    best = values.mean(1).argmax()
    spread = f"{values[best].mean():.1f} ± {values[best].std(ddof=1):.1f} %"
    print(f"{name}: {spread} at a learning rate of {rates[best]:.0e}")

# %%
# The best points tell little apart; the ranges tell more.

figure, axis = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
for (name, (rates, values)), mark in zip(found.items(), ("o-", "s--", "^:"), strict=True):
    axis.errorbar(rates, values.mean(1), values.std(1, ddof=1), fmt=mark, capsize=3, label=name)
axis.set(xscale="log", xlabel="learning rate", ylabel="validation accuracy (%)")
axis.set_title("Three seeds each, mean and standard deviation")
axis.legend()
plt.show()
