"""What pruning costs: a BiP step in plain steps, the masks of a large model, smaller models.

python -m benchmarks.pruning [--what=step|masks|export]

Times are medians of interleaved repetitions in one process; ratios are what counts.
"""

import json
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

import bilevel
from benchmarks._timing import in_turns
from bilevel import export
from experiments import models
from experiments.pruning import saved_model
from experiments.supervised import training

_WHAT = flags.DEFINE_enum("what", "all", ["all", "step", "masks", "export"], "Which part.")


def medians(calls, repeats):
    """Medians of the seconds of each call, made in turns after one of each to compile."""
    return {name: statistics.median(t) for name, t in in_turns(calls, repeats).items()}


def stepper(step, state, batch):
    """Returns a call that makes one donated step."""
    compiled = jax.jit(step, donate_argnums=0)
    holder = [jax.tree.map(jnp.copy, state)]

    def call():
        holder[0], metrics = compiled(holder[0], batch)
        return metrics

    return call


def bip_step(name, shape, batch_size, repeats):
    """A BiP step against a plain gradient step of the same model, optimizer and batch."""
    model = models.build(name, input_shape=shape, num_classes=10)
    params, stats = model.init(jax.random.key(0))

    def loss(params, stats, batch):
        logits, stats = model.apply(params, stats, batch[0], train=True)
        return training.cross_entropy(logits, batch[1])[0].mean(), stats

    tx = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(0.1, momentum=0.9))
    x = jax.random.normal(jax.random.key(1), (batch_size, *shape))
    batch = x, jnp.arange(batch_size) % 10

    def plain(state, batch):
        params, stats, opt = state
        (value, stats), g = jax.value_and_grad(loss, has_aux=True)(params, stats, batch)
        updates, opt = tx.update(g, opt, params)
        return (optax.apply_updates(params, updates), stats, opt), value

    solver = bilevel.bip(tx, optax.sgd(1.0, momentum=0.9), 0.1)
    first = solver.init(bilevel.pruning.problem(loss), None, params, stats=stats)
    calls = {
        "plain": stepper(plain, (params, stats, tx.init(params)), batch),
        "bip": stepper(solver.step, first, (batch, batch)),
    }
    times = medians(calls, repeats)
    return {
        "model": name,
        "plain_ms": 1e3 * times["plain"],
        "bip_ms": 1e3 * times["bip"],
        "ratio": times["bip"] / times["plain"],
    }


def mask_cost(repeats):
    """Masks of 25M parameters against optimizer steps; counting against sorting."""
    rng = np.random.default_rng(0)
    leaves = [jnp.asarray(rng.standard_normal((5000, 1000), np.float32)) for _ in range(5)]
    n = sum(x.size for x in leaves)

    def sort(leaves):
        flat = jnp.abs(jnp.concatenate([x.ravel() for x in leaves]))
        cut = jnp.sort(flat)[int(0.9 * n)]
        return [jnp.abs(x) >= cut for x in leaves]

    calls = {"masks": lambda: bilevel.masks.from_scores(leaves, 0.1)}
    for name, tx in {
        "sgd momentum": optax.sgd(0.1, momentum=0.9),
        "adamw": optax.adamw(1e-3),
    }.items():

        def update(state, grads, tx=tx):
            params, opt = state
            updates, opt = tx.update(grads, opt, params)
            return (optax.apply_updates(params, updates), opt), updates[0][0, 0]

        calls[name] = stepper(update, (leaves, tx.init(leaves)), leaves)
    sorting = jax.jit(sort)
    times = medians(calls, repeats)
    times |= medians({"sort": lambda: sorting(leaves)}, 2)
    times |= medians(
        {"numpy partition": lambda: np.partition(np.abs(np.concatenate(leaves, None)), n // 2)}, 2
    )
    result = {f"{k} ms": 1e3 * v for k, v in times.items()}
    for name in ("sgd momentum", "adamw"):
        result[f"masks / {name}"] = times["masks"] / times[name]
    return result


def export_speed(repeats):
    """Inference of VGG-16 with half of the filters of each layer against the masked model."""
    model = models.build("vgg16_bn", input_shape=(32, 32, 3), num_classes=10)
    params, stats = model.init(jax.random.key(0))
    chains = saved_model.chains("vgg16_bn", params, stats)
    scores = bilevel.masks.prunable(params, structure="filter")
    masks = bilevel.masks.from_scores(scores, 0.5, structure="filter")
    masks = export.tie(params, masks, chains)
    small, small_stats = export.shrink(params, stats, masks, chains)
    masked = bilevel.masks.apply(masks, params)
    x = jax.random.normal(jax.random.key(1), (64, 32, 32, 3))
    forward = jax.jit(lambda p, s: model.apply(p, s, x, train=False)[0])
    times = medians(
        {"masked": lambda: forward(masked, stats), "small": lambda: forward(small, small_stats)},
        repeats,
    )
    gap = float(jnp.abs(forward(masked, stats) - forward(small, small_stats)).max())
    sizes = [sum(v.size for v in jax.tree.leaves(p)) for p in (masked, small)]
    return {
        "model": "vgg16_bn",
        "masked_ms": 1e3 * times["masked"],
        "small_ms": 1e3 * times["small"],
        "speedup": times["masked"] / times["small"],
        "largest difference of logits": gap,
        "parameters": sizes,
    }


def main(_):
    what = _WHAT.value
    if what in ("all", "step"):
        print(json.dumps(bip_step("mlp", (28, 28, 1), 128, 100)), flush=True)
        print(json.dumps(bip_step("resnet20", (32, 32, 3), 128, 5)), flush=True)
    if what in ("all", "masks"):
        print(json.dumps(mask_cost(7)), flush=True)
    if what in ("all", "export"):
        print(json.dumps(export_speed(5)), flush=True)


if __name__ == "__main__":
    app.run(main)
