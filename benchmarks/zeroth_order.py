"""Cost and memory of MeZO against forward passes and backpropagation, on a LLaMA.

    python -m benchmarks.zeroth_order --out=results/zeroth_order_cpu.md
    python -m benchmarks.zeroth_order --size=60M --length=256 --batches=1,4 --rounds=0

Memory is what the compiler sets aside besides arguments and results, in parameters; nothing is
allocated for it. Time: every round runs one step and its forward passes, one after the other, and
ratios are medians over rounds.
"""

import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from experiments import models
from experiments.common import markdown, provenance
from optim import zeroth_order

FLAGS = flags.FLAGS
_OUT = flags.DEFINE_string("out", None, "Markdown file to write beside printing.")
_SIZE = flags.DEFINE_string("size", "char", "Size of the LLaMA.")
_VOCABULARY = flags.DEFINE_integer("vocabulary", 65, "Tokens that it knows.", lower_bound=2)
_LENGTH = flags.DEFINE_integer("length", 128, "Tokens of an example.", lower_bound=1)
_BATCHES = flags.DEFINE_list("batches", ["1", "4", "16"], "Examples of a batch.")
_SAMPLES = flags.DEFINE_integer("samples", 4, "Directions of a step.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 10, "Rounds that are timed.", lower_bound=0)


def programs(samples: int):
    """Returns the model, and loss, MeZO step and SGD step as jitted functions."""
    model = models.build(
        "llama", input_shape=(_LENGTH.value,), num_classes=_VOCABULARY.value, size=_SIZE.value
    )

    def loss(params, batch):
        logits, _ = model.apply(params, {}, batch["x"], train=False)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

    def sgd(params, batch):
        value, gradient = jax.value_and_grad(loss)(params, batch)
        return jax.tree.map(lambda p, g: p - 1e-6 * g, params, gradient), value

    solver = zeroth_order.mezo(loss, 1e-6, samples=samples)
    step = jax.jit(solver.step, donate_argnums=0)
    return model, solver, jax.jit(loss), step, jax.jit(sgd, donate_argnums=0)


def main(argv):
    """Compiles, times, prints."""
    del argv
    model, solver, loss, step, sgd = programs(_SAMPLES.value)
    key = jax.random.key(0)
    params = jax.eval_shape(model.init, key)[0]
    size = sum(p.size * p.dtype.itemsize for p in jax.tree.leaves(params))
    rows = []
    for examples in map(int, _BATCHES.value):
        shape = jax.ShapeDtypeStruct((examples, _LENGTH.value), jnp.int32)
        batch = {"x": shape, "label": shape}
        state = jax.eval_shape(solver.init, params, key)
        compiled = [
            f.lower(a, batch).compile() for f, a in ((loss, params), (step, state), (sgd, params))
        ]
        memory = [c.memory_analysis().temp_size_in_bytes / size for c in compiled]
        rows.append([str(examples), *(f"{m:.2f}" for m in memory)])
        if _ROUNDS.value:
            rng = np.random.default_rng(0)
            tokens = rng.integers(0, _VOCABULARY.value, (2, *shape.shape)).astype(np.int32)
            rows[-1].append(f"{ratio(model, solver, compiled, key, tokens):.2f}")
    head = ["examples", "forward pass", "MeZO step", "SGD step"]
    head += ["step / forward passes"] * bool(_ROUNDS.value)
    text = "\n".join(
        [
            f"# MeZO with {_SAMPLES.value} directions on LLaMA {_SIZE.value}, "
            f"{_LENGTH.value} tokens an example",
            "",
            f"Temporaries in multiples of the parameters ({size / 1e6:.1f} MB), by the compiler;"
            f" time of a step over that of its {2 * _SAMPLES.value} forward passes, median of"
            f" {_ROUNDS.value} rounds. {provenance.machine()}.",
            "",
            *markdown.table(head, rows),
            "",
        ]
    )
    print(text)
    if _OUT.value is not None:
        Path(_OUT.value).write_text(text, encoding="utf-8")


def ratio(model, solver, compiled, key, tokens) -> float:
    """Returns the time of a step over that of its forward passes."""
    forward, step, _ = compiled
    batch = dict(zip(("x", "label"), map(jnp.asarray, tokens), strict=True))
    state, ratios = solver.init(model.init(key)[0], key), []
    state = step(state, batch)[0]
    for _ in range(_ROUNDS.value):
        start = time.perf_counter()
        for _ in range(2 * _SAMPLES.value):
            jax.block_until_ready(forward(state.params, batch))
        middle = time.perf_counter()
        state = jax.block_until_ready(step(state, batch)[0])
        ratios.append((time.perf_counter() - middle) / (middle - start))
    return statistics.median(ratios)


if __name__ == "__main__":
    app.run(main)
