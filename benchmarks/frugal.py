"""Cost of FRUGAL's steps against optax.adamw on the hidden matrices of a 25M transformer.

    python -m benchmarks.frugal --out=results/frugal_cpu.md
    python -m benchmarks.frugal --subspaces=block,rows --rounds=5 --scale=0.25

Every round times one step of each, one after the other, so that a machine that slows down slows all
of them; ratios are medians over rounds of those to the AdamW step of the same round.
"""

import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

import optim
from experiments.common import provenance

GAP = 200
ALL = dict(stacked=lambda path, leaf: True)
# Name: options, whether the leaves are stacked.
CONTESTANTS = {
    "block": (dict(subspace="block"), False),
    "block, scanned layers": (dict(subspace="block", **ALL), True),
    "block, Lion": (dict(inner=optim.scale_by_lion_k()), False),
    "density 0": (dict(density=0.0), False),
    "columns": (dict(subspace="columns"), False),
    "rows": (dict(subspace="rows"), False),
    "randk": (dict(subspace="randk"), False),
    "randperm": (dict(subspace="randperm"), False),
    "random_orthogonal": (dict(subspace="random_orthogonal"), False),
    "svd": (dict(subspace="svd"), False),
}

FLAGS = flags.FLAGS
_OUT = flags.DEFINE_string("out", None, "Markdown file to write beside printing.")
_MACHINE = flags.DEFINE_string("machine", "", "The machine, in words, for the header.")
_SUBSPACES = flags.DEFINE_list("subspaces", list(CONTESTANTS), "Which of them to time.")
_ROUNDS = flags.DEFINE_integer("rounds", 30, "Rounds of ordinary steps.", lower_bound=1)
_CHANGES = flags.DEFINE_integer("changes", 5, "Rounds of change steps.", lower_bound=1)
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


class Contestant:
    """An optimizer with its compiled donated step, parameters, state and gradients."""

    def __init__(self, tx: optax.GradientTransformation, like: dict):
        def step(params, state, grads):
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        begin = time.perf_counter()
        args = like, jax.eval_shape(tx.init, like), like
        self.step = jax.jit(step, donate_argnums=(0, 1)).lower(*args).compile()
        self.compile_seconds = time.perf_counter() - begin
        self.state_bytes = optim.state_bytes(tx, like)
        rng = np.random.default_rng(0)

        def drawn(s):
            return jnp.asarray(rng.standard_normal(s.shape, np.float32))

        self.params, self.grads = jax.tree.map(drawn, like), jax.tree.map(drawn, like)
        self.state = jax.jit(tx.init)(self.params)

    def timed(self, count: int) -> float:
        """Seconds of the step with this number; FRUGAL's 0 changes the subspace."""
        state = self.state
        if isinstance(state[0], optim.ScaleByFrugalState):
            state = (state[0]._replace(count=jnp.asarray(count, jnp.int32)), *state[1:])
        jax.block_until_ready((self.params, state))
        begin = time.perf_counter()
        self.params, self.state = self.step(self.params, state, self.grads)
        jax.block_until_ready((self.params, self.state))
        return time.perf_counter() - begin


def main(_):
    lines = []

    def report(line=""):
        lines.append(line)
        print(line, flush=True)

    runs = {"optax.adamw": Contestant(optax.adamw(1e-3), shapes(_SCALE.value))}
    for name in _SUBSPACES.value:
        options, stacked = CONTESTANTS[name]
        tx = optim.frugal(1e-3, update_gap=GAP, **options)
        runs[name] = Contestant(tx, shapes(_SCALE.value, stacked=stacked))
    adamw = runs["optax.adamw"]
    count = sum(x.size for x in jax.tree.leaves(adamw.params))

    ordinary, change = ({name: [] for name in runs} for _ in range(2))
    for rounds, number, seconds in (
        (_CHANGES.value, 0, change),
        (_ROUNDS.value, 1, ordinary),
    ):
        for r in range(rounds + 1):  # The first warms up.
            for name, run in runs.items():
                took = run.timed(number)
                if r:
                    seconds[name].append(took)

    def ratio(seconds, name):
        pairs = zip(seconds[name], seconds["optax.adamw"], strict=True)
        return statistics.median(a / b for a, b in pairs)

    report("# Cost of FRUGAL's steps\n")
    report(
        f"{_MACHINE.value or provenance.machine()}; jax {jax.__version__}, "
        f"optax {optax.__version__}."
    )
    report(
        f"`python -m benchmarks.frugal`: {count / 1e6:.1f}M parameters, density 0.25, medians of "
        f"{_ROUNDS.value} ordinary steps and {_CHANGES.value} that change the subspace; amortised "
        f"over a gap of {GAP}. Weights are (in, out): rows lie along the last, contiguous axis, "
        "columns along the one before. Bytes are per float32 parameter by the compiler, which "
        "counts a loop's body once.\n"
    )
    report(
        "| | state bytes | temporary | accessed | ordinary ms | / adamw | change ms | / adamw "
        "| amortised / adamw | compile s |"
    )
    report("|" + "---|" * 10)
    for name, run in runs.items():
        m = run.step.memory_analysis()
        accessed = run.step.cost_analysis()["bytes accessed"]
        o, c = ratio(ordinary, name), ratio(change, name)
        ms = [1e3 * statistics.median(seconds[name]) for seconds in (ordinary, change)]
        report(
            f"| {name} | {run.state_bytes / count:.2f} | {m.temp_size_in_bytes / count:.2f} "
            f"| {accessed / count:.1f} | {ms[0]:.1f} | {o:.2f} | {ms[1]:.1f} | {c:.2f} "
            f"| {(o * (GAP - 1) + c) / GAP:.2f} | {run.compile_seconds:.1f} |"
        )
    if _OUT.value:
        Path(_OUT.value).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    app.run(main)
