"""
Training without backpropagation
================================

``optim.zeroth_order.value_and_grad`` stands where ``jax.value_and_grad`` stands. A gradient from
function values needs no stored activations, and costs many more forward passes.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_breast_cancer

import optim

data = load_breast_cancer()
x = np.asarray((data.data - data.data.mean(0)) / data.data.std(0), np.float32)
y = np.asarray(data.target, np.float32)


def loss(w, batch):
    return optax.sigmoid_binary_cross_entropy(batch["x"] @ w, batch["y"]).mean()


batch = {"x": jnp.asarray(x), "y": jnp.asarray(y)}

# %%
# Three gradients, one optimizer. A gradient by backpropagation counts as two forward passes.


def train(value_and_grad, passes, budget):
    tx = optax.adam(0.05)

    @jax.jit
    def step(w, state, key):
        value, grads = value_and_grad(w, batch, key)
        updates, state = tx.update(grads, state, w)
        return optax.apply_updates(w, updates), state, value

    w = jnp.zeros(x.shape[1])
    state, curve = tx.init(w), []
    for key in jax.random.split(jax.random.key(0), budget // passes):
        w, state, value = step(w, state, key)
        curve.append(float(value))
    return passes * np.arange(1, len(curve) + 1), curve


zeroth = optim.zeroth_order
curves = {
    "backpropagation": train(lambda w, b, key: jax.value_and_grad(loss)(w, b), 2, 800),
    "one direction (rge)": train(zeroth.value_and_grad(loss, zeroth.rge()), 2, 3200),
    "16 directions (rge)": train(
        zeroth.value_and_grad(loss, zeroth.rge(samples=16, chunk=16)), 32, 3200
    ),
}
for name, (passes, curve) in curves.items():
    print(f"{name}: loss {curve[-1]:.3f} after {passes[-1]} forward passes")

# %%

figure, axis = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
for (name, (passes, curve)), style in zip(curves.items(), ("-", ":", "--"), strict=True):
    axis.loglog(passes, curve, style, label=name)
axis.set(xlabel="forward passes", ylabel="cross-entropy", title="Breast cancer, 30 features")
axis.legend()
plt.show()
