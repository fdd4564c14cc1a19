"""
FRUGAL on a small LLaMA, and its bytes
======================================

FRUGAL keeps Adam's state for a share of the hidden matrices and updates the rest by the sign of the
gradient. Here a small LLaMA learns to write the source of this project's loop, letter by letter.
"""

import inspect
import itertools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import optim
from experiments import models

text = np.frombuffer(inspect.getsource(optim.loop).encode(), np.uint8) % 128
model = models.build("llama", input_shape=(64,), num_classes=128, size="char")

# %%
# Before training, from shapes alone: what the state of each optimizer takes.

shapes = jax.eval_shape(model.init, jax.random.key(0))[0]
made = {
    "AdamW": optax.adamw(1e-3),
    "FRUGAL, density 0.25": optim.frugal(2e-3, density=0.25, update_gap=20),
    "FRUGAL, density 0": optim.frugal(2e-3, density=0.0),
}
size = {name: optim.state_bytes(tx, shapes) / 2**20 for name, tx in made.items()}
for name, mebibytes in size.items():
    print(f"{name}: {mebibytes:.2f} MiB of state")

# %%
# The loop takes any step. The learning rates are not tuned here.


def train(tx, steps=60):
    def step(state, tokens):
        def loss(params):
            logits, _ = model.apply(params, {}, tokens[:, :-1], train=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

        params, opt_state = state
        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), {"loss": value}

    def batches(start):
        for t in itertools.count(start):
            first = np.random.default_rng(t).integers(0, len(text) - 65, 4)
            yield text[first[:, None] + np.arange(65)].astype(np.int32)

    params, _ = model.init(jax.random.key(0))
    curve = []
    optim.loop.run(
        step,
        (params, tx.init(params)),
        batches,
        steps,
        on_metrics=lambda t, metrics: curve.append(metrics["loss"]),
    )
    return np.concatenate(curve)


curves = {name: train(tx) for name, tx in made.items()}

# %%

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
for (name, curve), style in zip(curves.items(), ("-", "--", ":"), strict=True):
    left.plot(jnp.convolve(curve, np.ones(8) / 8, "valid"), style, label=name)
left.set(xlabel="step", ylabel="cross-entropy (mean of 8 steps)", title="Loss")
left.legend()
bars = right.barh(list(size), list(size.values()), color=["C0", "C1", "C2"])
right.bar_label(bars, fmt="%.2f", padding=3)
right.set(xlabel="MiB", title="State of the optimizer", xlim=(0, 1.2 * max(size.values())))
plt.show()
