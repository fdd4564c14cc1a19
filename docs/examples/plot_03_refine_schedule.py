"""
Refine a schedule from recorded norms
=====================================

A pilot run with linear decay records the norm of each gradient. From these norms follows the schedule
that a bound on the last iterate likes best; where gradients are small, steps may be large.
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
STEPS, PEAK = 400, 2.0


def loss(params, batch):
    hidden = jnp.tanh(batch["x"] @ params["a"])
    logits = hidden @ params["b"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()


def batches(start):
    for t in itertools.count(start):
        rows = np.random.default_rng(t).integers(0, len(x), 32)
        yield {"x": x[rows], "y": y[rows]}


def train(schedule):
    tx = optax.chain(optim.record_norms(STEPS), optax.sgd(schedule))

    def step(state, batch):
        value, grads = jax.value_and_grad(loss)(state[0], batch)
        updates, opt_state = tx.update(grads, state[1], state[0])
        return (optax.apply_updates(state[0], updates), opt_state), {"loss": value}

    keys = jax.random.split(jax.random.key(0))
    params = {
        "a": 0.2 * jax.random.normal(keys[0], (64, 32)),
        "b": 0.2 * jax.random.normal(keys[1], (32, 10)),
    }
    params, state = optim.loop.run(step, (params, tx.init(params)), batches, STEPS)
    return float(loss(params, {"x": x, "y": y})), optim.recorded_norms(state)


# %%
# The pilot, and the schedule from its norms.

linear = optim.sampled_schedule("linear", PEAK, STEPS)
pilot, norms = train(linear)
refined = optim.refined_schedule(PEAK, norms, norm="l2")  # "l1" for Adam.
again, _ = train(refined)
print(f"loss on all digits: linear {pilot:.4f}, refined {again:.4f}")

# %%

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
left.plot(norms, color="0.75", label="each step")
left.plot(optim.smooth_norms(norms), "C0", label="smoothed")
left.set(xlabel="step", ylabel="norm of the gradient", title="Pilot", ylim=(0, None))
left.legend()
t = np.arange(STEPS)
right.plot(t, linear(t), "C1--", label="linear")
right.plot(t, refined(t), "C0", label="refined")
right.set(xlabel="step", ylabel="learning rate", title="Schedules")
right.legend()
plt.show()
