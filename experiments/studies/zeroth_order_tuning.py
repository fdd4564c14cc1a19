"""Fine-tuning of a character model from one text to another, at equal forward passes."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import data
from experiments.studies import _networks as nets
from optim import zeroth_order as zo

LENGTH, WIDTH, HEADS, BATCH = 32, 32, 2, 16
PRETRAINING = 2000  # Steps.
BLOCKS = r"(block_0|block_1|embedding|head)"

# A forward pass with a tangent or a gradient counts as two.
ESTIMATORS: dict[str, Any] = {
    "backpropagation": None,
    "RGE": zo.rge(),
    "RGE, 8 directions": zo.rge(samples=8),
    "forward gradient": zo.forward_gradient(),
    "block-wise": zo.blockwise(BLOCKS),
    "sparse": zo.sparse(zo.random_mask(0.75), 100),
    "hybrid": zo.hybrid("head"),
    "sign": zo.sign(),
    "conservative": zo.rge(),
}


def measure(
    seeds: int, method: str, passes: int, rates: list[float], data_dir: str
) -> list[dict[str, float]]:
    """Trains a transformer of 30,000 parameters on tinyshakespeare, then with ``method`` on PTB.

    Each seed has a pretraining of its own. The rate is the one with the lowest validation loss
    for a further seed.

    Returns:
      For each seed the test loss before and after ``passes`` forward passes, the difference, and
      the rate.
    """
    corpora = [_text(name, data_dir) for name in ("tinyshakespeare", "ptb")]
    tune = jax.jit(functools.partial(_tuned, method, passes))

    def losses(seed, rate):
        params = _pretrained(seed, data_dir)
        return params, tune(params, corpora[1], jax.random.key(seed), rate)

    found = {rate: float(losses(seeds, rate)[1]["valid"]) for rate in rates}
    rate = min(found, key=lambda r: found[r] if math.isfinite(found[r]) else math.inf)
    rows = []
    for seed in range(seeds):
        params, after = losses(seed, rate)
        before, loss = float(_loss(params, corpora[1]["test"])), float(after["test"])
        rows.append({"loss": loss, "gain": loss - before, "start": before, "rate": rate})
    return rows


def _init(key: jax.Array) -> Any:
    def dense(i, m, n):
        return jax.random.normal(jax.random.fold_in(key, i), (m, n)) / math.sqrt(m)

    def block(i):
        return {
            "qkv": dense(i, WIDTH, 3 * WIDTH),
            "out": dense(i + 1, WIDTH, WIDTH) / 2,
            "up": dense(i + 2, WIDTH, 3 * WIDTH),
            "down": dense(i + 3, 3 * WIDTH, WIDTH) / 2,
        }

    return {
        "embedding": {"characters": dense(0, 128, WIDTH), "positions": dense(1, LENGTH, WIDTH)},
        "block_0": block(10),
        "block_1": block(20),
        "head": dense(2, WIDTH, 128),
    }


def _logits(params: Any, x: jax.Array) -> jax.Array:
    def normed(h):
        return h * jax.lax.rsqrt(jnp.mean(h**2, -1, keepdims=True) + 1e-6)

    h = params["embedding"]["characters"][x] + params["embedding"]["positions"][None]
    for name in ("block_0", "block_1"):
        p = params[name]
        q, k, v = (
            y.reshape(*x.shape, HEADS, WIDTH // HEADS)
            for y in jnp.split(normed(h) @ p["qkv"], 3, -1)
        )
        attended = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        h = h + attended.reshape(h.shape) @ p["out"]
        h = h + jax.nn.gelu(normed(h) @ p["up"]) @ p["down"]
    return normed(h) @ params["head"]


@jax.jit
def _loss(params: Any, windows: jax.Array) -> jax.Array:
    return nets.cross_entropy(_logits(params, windows[:, :-1]), windows[:, 1:])


def _draw(tokens: jax.Array, key: jax.Array) -> jax.Array:
    starts = jax.random.randint(key, (BATCH, 1), 0, len(tokens) - LENGTH)
    return tokens[starts + jnp.arange(LENGTH + 1)[None]]


@functools.cache
def _text(name: str, data_dir: str) -> dict[str, np.ndarray]:
    """Bytes to train on, and 500 windows each to choose and to judge by."""
    found = data.load(f"text:{name}", data_dir, tokens="byte")
    parts = {k: np.asarray(getattr(found, k)["tokens"]) for k in ("train", "valid", "test")}
    for part in ("valid", "test"):
        starts = np.linspace(0, len(parts[part]) - LENGTH - 1, 500).astype(int)
        parts[part] = parts[part][starts[:, None] + np.arange(LENGTH + 1)]
    return {k: np.minimum(x, 127).astype(np.int32) for k, x in parts.items()}


@functools.cache
def _pretrained(seed: int, data_dir: str) -> Any:
    key = jax.random.key(seed)
    train = jax.jit(functools.partial(_train, None, PRETRAINING))
    tokens = _text("tinyshakespeare", data_dir)["train"]
    return train(_init(key), tokens, jax.random.fold_in(key, 1), 5e-3)


def _train(estimator, steps, params, tokens, key, rate):
    """Adam whose rate falls linearly to zero."""
    tx = optax.adam(optax.linear_schedule(rate, 0.0, steps))
    vg = jax.value_and_grad(_loss)
    if estimator is not None:
        estimated = zo.value_and_grad(_loss, estimator)

    def step(carry, t):
        params, state = carry
        to_draw, to_probe = jax.random.split(jax.random.fold_in(key, t))
        batch = _draw(tokens, to_draw)
        if estimator is None:
            _, grads = vg(params, batch)
        else:
            _, grads = estimated(params, batch, to_probe, t)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, tx.init(params)), jnp.arange(steps))[0][0]


def _conservative(estimator, steps, params, tokens, key, rate):
    """As :func:`_train`, with steps that are taken only if they pay."""
    tx = optax.adam(optax.linear_schedule(rate, 0.0, steps))
    solver = zo.conservative(_loss, tx, estimator)
    to_draw, to_probe = jax.random.split(key)

    def step(state, t):
        return solver.step(state, _draw(tokens, jax.random.fold_in(to_draw, t)))[0], None

    state = solver.init(params, to_probe)
    return jax.lax.scan(step, state, jnp.arange(steps))[0].params


def _tuned(method, passes, params, corpus, key, rate):
    estimator = ESTIMATORS[method]
    cost = 2 if estimator is None else estimator.evaluations(params)
    train = _train
    if method == "conservative":
        cost, train = cost + 3, _conservative
    params = train(estimator, passes // cost, params, corpus["train"], key, rate)
    return {part: _loss(params, corpus[part]) for part in ("valid", "test")}
