"""
One seed against eight
======================

Eight seeds are a leading axis of the same loop. The band says what one run cannot: how much of a
difference is chance.
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
SEEDS, STEPS = 8, 200


def accuracy(w, inputs, labels):
    return jnp.mean((inputs @ w).argmax(-1) == labels)


def train(tx):
    def step(state, batch):
        def loss(w):
            logits = batch["x"] @ w
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()

        grads = jax.grad(loss)(state[0])
        updates, opt_state = tx.update(grads, state[1], state[0])
        w = optax.apply_updates(state[0], updates)
        return (w, opt_state), {"accuracy": accuracy(w, x[1400:], y[1400:])}

    def order(seed):  # Each seed has batches of its own.
        def batches(start):
            for t in itertools.count(start):
                rows = np.random.default_rng((seed, t)).integers(0, 1400, 16)
                yield {"x": x[rows], "y": y[rows]}

        return batches

    starts = 0.1 * jax.random.normal(jax.random.key(0), (SEEDS, 64, 10))
    states = jax.vmap(lambda w: (w, tx.init(w)))(starts)
    curve = []
    optim.loop.run(
        step,
        states,
        [order(seed) for seed in range(SEEDS)],
        STEPS,
        replicas=SEEDS,
        vmap=True,
        on_metrics=lambda t, metrics: curve.append(metrics["accuracy"]),
    )
    return 100 * np.concatenate(curve)


runs = {"optim.lion": train(optim.lion(3e-3)), "optim.adamp": train(optim.adamp(1e-2))}
for name, curve in runs.items():
    last = curve[-1]
    print(f"{name}: {last.mean():.2f} ± {last.std(ddof=1):.2f} %, one seed {last[0]:.2f} %")

# %%
# On the left what one seed shows, on the right the mean of eight with one standard deviation.

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True, layout="constrained")
for (name, curve), style in zip(runs.items(), ("-", "--"), strict=True):
    left.plot(curve[:, 0], style, label=name)
    mean, std = curve.mean(1), curve.std(1, ddof=1)
    (line,) = right.plot(mean, style, label=name)
    right.fill_between(range(STEPS), mean - std, mean + std, alpha=0.25, color=line.get_color())
left.set(xlabel="step", ylabel="test accuracy (%)", ylim=(60, 100), title="One seed")
right.set(xlabel="step", title="Eight seeds")
right.legend(loc="lower right")
plt.show()
