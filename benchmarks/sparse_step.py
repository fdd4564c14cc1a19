"""What sparsity costs and saves on a CPU: changes of masks, steps that multiply less, exports.

    OMP_NUM_THREADS=1 NPROC=1 python -m benchmarks.sparse_step --out=results/sparse/step.json

Times are those of the processor, which other processes do not add to, on one core; medians over
rounds of ratios within a round, the calls in random order.
"""

import io
import itertools
import json
import os
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import bilevel
from benchmarks import _report, _sparse_layers
from benchmarks._timing import in_turns, ratio
from bilevel import export
from bilevel.pruning import problem
from experiments.common import markdown
from optim import _checks

BATCH = 128
EVERY = 100  # Steps between changes, as most papers have it.
NETWORKS = {"784-300-100-10": (784, 300, 100, 10), "784-1024-1024-10": (784, 1024, 1024, 10)}
DENSITIES = (0.1, 0.05, 0.02)
BLOCKS = (1, 8)
COMMAND = "OMP_NUM_THREADS=1 NPROC=1 python -m benchmarks.sparse_step"
GOAL = 0.5  # Of the dense step, at a density of .02.


def network(widths: tuple[int, ...]) -> Any:
    """Parameters of an MLP and a batch."""
    rng = np.random.default_rng(0)
    params = {}
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        kernel = rng.standard_normal((inputs, outputs), np.float32) * np.sqrt(2 / inputs)
        params[f"layer{i}"] = {"kernel": kernel.astype(np.float32), "bias": np.zeros(outputs, "f4")}
    x = rng.standard_normal((BATCH, widths[0]), np.float32)
    return jax.tree.map(jnp.asarray, (params, (x, rng.integers(0, widths[-1], BATCH))))


def loss(params: Any, batch: Any) -> jax.Array:
    """Cross-entropy of the MLP."""
    x, labels = batch
    for i, layer in enumerate(params.values()):
        x = x if i == 0 else jax.nn.relu(x)
        x = x @ layer["kernel"] + layer["bias"]
    return optax.softmax_cross_entropy_with_integer_labels(x, labels).mean()


def of_rows(values: Any, rows: list[Any], batch: Any, outputs: int) -> jax.Array:
    """The same of stored rows; ``values`` are pairs of stored values and biases."""
    x, labels = batch
    h = x.T
    for i, ((value, bias), row) in enumerate(zip(values, rows, strict=True)):
        h = h if i == 0 else jax.nn.relu(h)
        inputs, block = row.places.shape[1], value.shape[-1]
        h = jnp.pad(h, ((0, inputs * block - len(h)), (0, 0))).reshape(inputs, block, -1)
        h = _sparse_layers.multiply(value, h, row).reshape(-1, len(labels))[: len(bias)]
        h = h + bias[:, None]
    return optax.softmax_cross_entropy_with_integer_labels(h[:outputs].T, labels).mean()


def mask_changes(rounds: int) -> list[dict[str, Any]]:
    """Steps without and with a change of masks, over plain steps of the dense network."""
    params, batch = network(NETWORKS["784-300-100-10"])
    tx, given = optax.sgd(0.1, momentum=0.9), problem(loss)
    options = {"every": 2, "steps": 10**6}
    dynamic = bilevel.dynamic
    solvers = {
        "RigL": dynamic.rigl(tx, 0.1, **options),
        "SET": dynamic.set_(tx, 0.1, **options),
        "ITOP": bilevel.dynamic_sparse(tx, 0.1, grow="unfired", **options),
        "sparse momentum": bilevel.dynamic_sparse(tx, 0.1, grow="momentum", **options),
        "GraNet": dynamic.granet(tx, 0.1, **options),
        "GMP": dynamic.gmp(tx, 0.1, **options),
        "RigL's program": dynamic.rigl_program(tx, 0.1, every=2, end=10**6),
        "fixed masks": bilevel.sparse_training(tx),
        "SR-STE 2:4": bilevel.nm_training(tx, "2:4"),
        "SR-STE 1:4": bilevel.nm_training(tx, "1:4"),
    }

    @jax.jit
    def plain(params, opt):
        value, g = jax.value_and_grad(loss)(params, batch)
        updates, opt = tx.update(g, opt, params)
        return optax.apply_updates(params, updates), opt, value

    opt = tx.init(params)
    calls: dict[str, Any] = {"plain": lambda: plain(params, opt)}
    for name, solver in solvers.items():
        masks = bilevel.dynamic.start_masks(jax.random.key(0), params, 0.1)
        first = solver.init(given, masks if name == "fixed masks" else None, params)
        step = jax.jit(solver.step)
        without = jax.block_until_ready(step(first, batch)[0])
        if name == "RigL's program":  # Its first call is a change, the second is none.
            first, without = without, first
        calls[f"{name}, without"] = lambda step=step, state=first: step(state, batch)
        if not name.startswith(("fixed", "SR-STE")):
            calls[f"{name}, with"] = lambda step=step, state=without: step(state, batch)
    times = in_turns(calls, rounds, time.process_time, warm_up=2)
    rows = []
    for name in solvers:
        row = {"method": name, "without": ratio(times, f"{name}, without", "plain")}
        if f"{name}, with" in times:
            row["with"] = ratio(times, f"{name}, with", "plain")
            row["change"] = row["with"] - row["without"]
            row["mean"] = row["without"] + row["change"] / EVERY
        rows.append(row)
    milliseconds = 1e3 * statistics.median(times["plain"])
    return [{"method": "plain", "milliseconds": milliseconds}, *rows]


def block_masks(params: Any, density: float, block: int) -> Any:
    """Random masks of whole blocks; the last layer keeps at least a fifth."""
    rng = np.random.default_rng(1)
    masks = {}
    for i, (name, layer) in enumerate(params.items()):
        shape = layer["kernel"].shape
        many = tuple(-(-n // block) for n in shape)
        share = max(density, 0.2) if i == len(params) - 1 else density
        keep = rng.permutation(many[0] * many[1]).reshape(many) < round(share * many[0] * many[1])
        mask = np.kron(keep, np.ones((block, block), bool))[: shape[0], : shape[1]]
        masks[name] = {"kernel": mask, "bias": None}
    return masks


def sparse_steps(rounds: int, steps: int = 3) -> list[dict[str, Any]]:
    """Training steps with stored rows, over those of the dense and of the masked network."""
    tx, rows = optax.sgd(0.1, momentum=0.9), []
    for (name, widths), density, block in itertools.product(NETWORKS.items(), DENSITIES, BLOCKS):
        params, batch = network(widths)
        masks = block_masks(params, density, block)
        masked = bilevel.sparse_training(tx)
        state = masked.init(problem(loss), masks, params)

        @jax.jit
        def plain(params, opt, batch=batch):
            value, g = jax.value_and_grad(loss)(params, batch)
            updates, opt = tx.update(g, opt, params)
            return optax.apply_updates(params, updates), opt, value

        found = [
            _sparse_layers.rows_of(layer["kernel"], masks[k]["kernel"], block)
            for k, layer in params.items()
        ]
        places = [row for row, _ in found]
        values = [(v, layer["bias"]) for (_, v), layer in zip(found, params.values(), strict=True)]

        @jax.jit
        def stored(values, opt, places=places, batch=batch, outputs=widths[-1]):
            value, g = jax.value_and_grad(of_rows)(values, places, batch, outputs)
            updates, opt = tx.update(g, opt, values)
            return optax.apply_updates(values, updates), opt, value

        # Both make the same steps.
        one, two, losses = state, (values, tx.init(values)), []
        step = jax.jit(masked.step)
        for _ in range(steps):
            one, metrics = step(one, batch)
            *two, value = stored(*two)
            losses.append(abs(float(metrics["loss"]) - float(value)))
        opt, own = tx.init(params), tx.init(values)
        times = in_turns(
            {
                "dense": lambda plain=plain, p=params, o=opt: plain(p, o),
                "masked": lambda step=step, s=state, b=batch: step(s, b),
                "rows": lambda stored=stored, v=values, o=own: stored(v, o),
            },
            rounds,
            time.process_time,
            warm_up=2,
        )
        rows.append(
            {
                "network": name,
                "kept": density,
                "block": block,
                "dense milliseconds": 1e3 * statistics.median(times["dense"]),
                "rows / dense": ratio(times, "rows", "dense"),
                "rows / masked": ratio(times, "rows", "masked"),
                "difference of losses": max(losses),
            }
        )
    return rows


def exports() -> list[dict[str, Any]]:
    """Bytes of a kernel as it is stored: what the export says, and a file of it."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((1024, 1024)).astype(np.float32)
    rows = []

    def add(form, found, kept):
        arrays = [x for x in found if isinstance(x, np.ndarray)]
        file = io.BytesIO()
        np.savez(file, *arrays)
        rows.append(
            {
                "form": form,
                "kept": kept,
                "says": found.nbytes / w.nbytes,
                "file": file.tell() / w.nbytes,
            }
        )

    for density in (0.5, *DENSITIES, 0.01):
        mask = np.asarray(bilevel.masks.from_scores({"w": w}, density)["w"])
        add("CSR", export.to_csr(w * mask), density)
    for density in (0.1, 0.02):
        keep = rng.random((128, 128)) < density
        blocks = np.where(np.kron(keep, np.ones((8, 8), bool)), w, 0)
        add("blocks of 8 x 8", export.to_bcsr(blocks, (8, 8)), float(keep.mean()))
    for structure in ("2:4", "1:4", "1:16"):
        mask = np.asarray(bilevel.masks.from_scores({"w": w}, structure=structure)["w"])
        n, m = map(int, structure.split(":"))
        add(structure, export.to_nm(w * mask, structure), n / m)
    return rows


def page(results: dict) -> str:
    """The Markdown of the results."""
    plain, *changes = results["mask changes"] or [{"milliseconds": 0.0}]

    def shown(row, key):
        return f"{row[key]:.2f}" if key in row else "–"

    table = [
        [row["method"], *(shown(row, k) for k in ("without", "with", "mean"))] for row in changes
    ]
    steps = [
        [
            row["network"],
            f"{100 * row['kept']:g} %",
            "single weights" if row["block"] == 1 else f"{row['block']} x {row['block']}",
            f"{row['dense milliseconds']:.2f}",
            f"{row['rows / dense']:.2f}{_judged(row)}",
            f"{row['rows / masked']:.2f}",
            f"{row['difference of losses']:.0e}",
        ]
        for row in results["sparse steps"]
    ]
    sizes = [
        [row["form"], f"{100 * row['kept']:.3g} %", f"{row['says']:.4f}", f"{row['file']:.4f}"]
        for row in results["exports"]
    ]
    loaded = results["load"]
    return "\n".join(
        [
            "# What sparsity costs and saves on a CPU",
            "",
            f"`{results['command']}`, {results['machine']}, load {loaded:.1f} at"
            f" the start; times of the processor, medians over {results['rounds']} rounds of ratios"
            " within a round.",
            "",
            "## Changes of masks",
            "",
            f"A step of 784-300-100-10, batch {BATCH}, SGD with momentum, over a plain step of the"
            f" dense network ({plain['milliseconds']:.2f} ms): where no change of masks is due,"
            f" where one is, and in the mean with a change every {EVERY} steps. N:M training finds"
            " its masks at every step.",
            "",
            *markdown.table(["method", "no change", "change", "mean"], table, "lrrr"),
            "",
            "## Steps that multiply what is kept",
            "",
            "A training step (forward, backward, SGD with momentum) of stored rows"
            f" (`benchmarks/_sparse_layers.py`), batch {BATCH}, over that of the dense network and"
            " of the masked one; random masks of single weights or of whole blocks, of which the"
            f" last layer keeps a fifth. Goal at 2 %: {GOAL} of dense.",
            "",
            *markdown.table(
                ["network", "kept", "blocks", "dense, ms", "/ dense", "/ masked", "losses differ"],
                steps,
                "lrlrrrr",
            ),
            "",
            "## Bytes of an export",
            "",
            "A kernel of 1024 x 1024 in float32, over its dense bytes: what `nbytes` of the export"
            " says, and a file of its arrays (`np.savez`).",
            "",
            *markdown.table(["form", "kept", "says", "file"], sizes, "lrrr"),
            "",
        ]
    )


def _judged(row) -> str:
    if row["kept"] != 0.02:
        return ""
    return "" if row["rows / dense"] <= GOAL else ", missed"


def main():
    parser = _report.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=31, help="Rounds of each part.")
    parser.add_argument("--part", help="Only one of the parts; the others stay as they are in OUT.")
    args = parser.parse_args()
    parts = {
        "mask changes": lambda: mask_changes(args.rounds),
        "sparse steps": lambda: sparse_steps(args.rounds),
        "exports": exports,
    }
    if args.part:
        _checks.choice("part", args.part, parts)
    before = json.loads(args.out.read_text()) if args.part and args.out.exists() else {}
    about = {"rounds": args.rounds, "load": os.getloadavg()[0]}
    results = {**before, **_report.found_with(COMMAND), **about}
    for name, make in parts.items():
        results[name] = make() if args.part in (None, name) else before.get(name, [])
    _report.write(results, page, args.out)


if __name__ == "__main__":
    main()
