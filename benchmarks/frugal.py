"""Cost of FRUGAL's steps against optax.adamw on the hidden matrices of a 25M transformer.

    python -m benchmarks.frugal [--subspaces=block,rows] [--rounds=30] [--scale=1]

Every round times one AdamW step and one step of each subspace, one after the other, so that a
machine that slows down slows all of them. Printed are medians of the ratios to the AdamW step of
the same round: for an ordinary step, for the step that changes the subspace, and amortised over
``update_gap=200``; bytes of state, of temporaries and accessed per parameter (XLA's count, in which
a loop body counts once); and the time to compile.
"""

import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

import optim

SUBSPACES = {
    "block": dict(subspace="block"),
    "block stacked": dict(subspace="block"),
    "rows": dict(subspace="rows"),
    "columns": dict(subspace="columns"),
    "randk": dict(subspace="randk"),
    "randperm": dict(subspace="randperm"),
    "random_orthogonal": dict(subspace="random_orthogonal"),
    "svd": dict(subspace="svd"),
    "density 0": dict(subspace="block", density=0.0),
}
GAP = 200

FLAGS = flags.FLAGS
_SUBSPACES = flags.DEFINE_list("subspaces", list(SUBSPACES), "Which subspaces to time.")
_ROUNDS = flags.DEFINE_integer("rounds", 30, "Timed rounds.", lower_bound=1)
_SCALE = flags.DEFINE_float("scale", 1.0, "Width of the model relative to 512.", lower_bound=0.05)


def shapes(scale: float, layers: int = 8, stacked: bool = False) -> dict:
    """Shapes of the hidden matrices of a LLaMA 60M, ``(in, out)``."""
    d, f = round(512 * scale), round(1376 * scale)
    layer = {"q": (d, d), "k": (d, d), "v": (d, d), "o": (d, d)}
    layer |= {"gate": (d, f), "up": (d, f), "down": (f, d)}
    if stacked:
        return {k: jax.ShapeDtypeStruct((layers, *s), jnp.float32) for k, s in layer.items()}
    return {
        f"layer{i}": {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in layer.items()}
        for i in range(layers)
    }


def compiled(tx: optax.GradientTransformation, like: dict):
    """The donated step ``(params, state, grads) -> (params, state)``, and what XLA says of it."""

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    begin = time.perf_counter()
    c = jax.jit(step, donate_argnums=(0, 1)).lower(like, jax.eval_shape(tx.init, like), like)
    c = c.compile()
    return c, time.perf_counter() - begin


def main(_):
    runs = {"adamw": (optax.adamw(1e-3), shapes(_SCALE.value))}
    for name in _SUBSPACES.value:
        stacked = "stacked" in name
        extra = dict(update_gap=GAP, stacked=(lambda path, leaf: True) if stacked else None)
        tx = optim.frugal(1e-3, **(extra | SUBSPACES[name]))
        runs[name] = (tx, shapes(_SCALE.value, stacked=stacked))
    rng = np.random.default_rng(0)

    def drawn(like):
        return jax.tree.map(lambda s: jnp.asarray(rng.standard_normal(s.shape, np.float32)), like)

    steps, carry, grads = {}, {}, {}
    count = sum(int(np.prod(s.shape)) for s in jax.tree.leaves(shapes(_SCALE.value)))
    print(f"{count / 1e6:.1f}M parameters, {jax.devices()[0].device_kind}, jax {jax.__version__}")
    print(f"{'':18} state B/p  temp B/p  bytes/p  compile s  ordinary  change  amortised")
    for name, (tx, like) in runs.items():
        steps[name] = compiled(tx, like)
        params = drawn(like)
        carry[name] = (params, jax.jit(tx.init)(params))
        grads[name] = drawn(like)

    def timed(name, n):
        params, state = carry[name]
        if name != "adamw":
            first = state[0]._replace(count=jnp.asarray(n, jnp.int32))
            state = (first, *state[1:])
        jax.block_until_ready((params, state))
        begin = time.perf_counter()
        carry[name] = jax.block_until_ready(steps[name][0](params, state, grads[name]))
        return time.perf_counter() - begin

    ordinary = {name: [] for name in runs}
    change = {name: [] for name in runs}
    for r in range(_ROUNDS.value + 2):
        base = timed("adamw", 0)
        for name in runs:
            few = name in ("svd",) and r > 4  # A change takes seconds.
            pair = (timed(name, 0) if not few else None, timed(name, 1))
            if r >= 2:
                ordinary[name].append(pair[1] / base)
                if pair[0] is not None:
                    change[name].append(pair[0] / base)
    for name, (c, seconds) in steps.items():
        m = c.memory_analysis()
        state = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(carry[name][1]))
        o, u = statistics.median(ordinary[name]), statistics.median(change[name])
        print(
            f"{name:18} {state / count:9.2f} {m.temp_size_in_bytes / count:9.2f} "
            f"{c.cost_analysis()['bytes accessed'] / count:8.1f} {seconds:10.1f} "
            f"{o:9.2f} {u:7.2f} {(o * (GAP - 1) + u) / GAP:10.2f}"
        )


if __name__ == "__main__":
    app.run(main)
