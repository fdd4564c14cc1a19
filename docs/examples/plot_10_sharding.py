"""
Eight devices on a laptop
=========================

Eight virtual CPU devices serve to try what later runs on eight GPUs. The batch is split over them, and
with it, if you wish, parameters and state; the numbers stay the same.
"""

import itertools

import jax

jax.config.update("jax_num_cpu_devices", 8)  # Before JAX is used.

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import optim

mesh = optim.parallel.data_mesh()
tx = optim.adamp(1e-2)
print(f"{mesh.size} devices")

# %%
# A step knows nothing of devices.


def step(state, batch):
    def loss(params):
        return jnp.mean((jnp.tanh(batch @ params["a"]) @ params["b"] - batch) ** 2)

    value, grads = jax.value_and_grad(loss)(state[0])
    updates, opt_state = tx.update(grads, state[1], state[0])
    return (optax.apply_updates(state[0], updates), opt_state), {"loss": value}


def batches(start):
    for t in itertools.count(start):
        yield np.random.default_rng(t).normal(size=(64, 64)).astype(np.float32)


def fresh():
    keys = jax.random.split(jax.random.key(0))
    return {
        "a": 0.1 * jax.random.normal(keys[0], (64, 256)),
        "b": 0.1 * jax.random.normal(keys[1], (256, 64)),
    }


def train(state, mesh):
    curve = []
    state = optim.loop.run(
        step, state, batches, 60, mesh=mesh, on_metrics=lambda t, m: curve.append(m["loss"])
    )
    return state, np.concatenate(curve)


one = train((fresh(), tx.init(fresh())), None)
split = train((fresh(), tx.init(fresh())), mesh)
params = optim.parallel.shard(fresh(), mesh)
whole = train((params, optim.parallel.shard(tx.init(params), mesh)), mesh)

# %%
# What each device holds.


def held(state):
    total = dict.fromkeys(range(8), 0)
    for leaf in jax.tree.leaves(state):
        for shard in leaf.addressable_shards:
            total[shard.device.id] += shard.data.nbytes
    return [total[i] / 2**10 for i in range(8)]


names = ("one device", "batch split", "batch and state split")
found = {n: (held(run[0]), run[1]) for n, run in zip(names, (one, split, whole), strict=True)}
difference = max(np.abs(curve - one[1]).max() for _, curve in found.values())
print(f"largest difference of the losses: {difference:.1e}")

# %%

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
for (name, (_, curve)), style in zip(found.items(), ("-", "--", ":"), strict=True):
    left.plot(curve, style, lw=2, label=name)
left.set(xlabel="step", ylabel="loss", title="The same numbers")
left.legend()
for i, (name, (sizes, _)) in enumerate(found.items()):
    right.bar(np.arange(8) + 0.27 * (i - 1), sizes, 0.27, label=name)
right.set(xlabel="device", ylabel="KiB", title="Parameters and state", xticks=range(8))
plt.show()
