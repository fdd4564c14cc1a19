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
PRETRAINING = 1000  # Steps.
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
    """Trains a transformer of 30,000 parameters on tinyshakespeare, then by ``method`` on PTB.

    Each seed has a pretraining of its own. The rate is the one with the lowest validation loss
    for a further seed.

    Returns:
      For each seed the test loss before and after ``passes`` forward passes, the difference, and
      the rate.
    """
    corpus = _text("ptb", data_dir)

    def tuned(seed, rate):
        params = _pretrained(seed, data_dir)
        steps = passes // _cost(method, params)
        return _program(method)(params, corpus["train"], jax.random.key(seed), rate, steps)

    found = {rate: float(_loss(tuned(seeds, rate), corpus["valid"])) for rate in rates}
    rate = min(found, key=lambda r: found[r] if math.isfinite(found[r]) else math.inf)
    rows = []
    for seed in range(seeds):
        start = float(_loss(_pretrained(seed, data_dir), corpus["test"]))
        loss = float(_loss(tuned(seed, rate), corpus["test"]))
        rows.append({"loss": loss, "gain": loss - start, "start": start, "rate": rate})
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
    tokens = _text("tinyshakespeare", data_dir)["train"]
    train = _program("backpropagation")
    return train(_init(key), tokens, jax.random.fold_in(key, 1), 5e-3, PRETRAINING)


def _cost(method: str, params: Any) -> int:
    """Forward passes of a step."""
    if method == "backpropagation":
        return 2
    return ESTIMATORS[method].evaluations(params) + 3 * (method == "conservative")


@functools.cache
def _program(method: str) -> Any:
    """Adam whose rate falls linearly to zero: ``(params, tokens, key, rate, steps) -> params``."""
    estimator = ESTIMATORS[method]
    exact = jax.value_and_grad(_loss)

    def gradient(params, batch, key, t):
        if estimator is None:
            return exact(params, batch)[1]
        return zo.value_and_grad(_loss, estimator)(params, batch, key, t)[1]

    def plain(params, tokens, key, tx, steps):
        def step(t, carry):
            params, state = carry
            to_draw, to_probe = jax.random.split(jax.random.fold_in(key, t))
            grads = gradient(params, _draw(tokens, to_draw), to_probe, t)
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, steps, step, (params, tx.init(params)))[0]

    def conservative(params, tokens, key, tx, steps):
        solver = zo.conservative(_loss, tx, estimator)
        to_draw, to_probe = jax.random.split(key)

        def step(t, state):
            return solver.step(state, _draw(tokens, jax.random.fold_in(to_draw, t)))[0]

        return jax.lax.fori_loop(0, steps, step, solver.init(params, to_probe)).params

    def run(params, tokens, key, rate, steps):
        tx = optax.adam(lambda t: rate * (1 - t / steps))
        train = conservative if method == "conservative" else plain
        return train(params, tokens, key, tx, steps)

    return jax.jit(run)
