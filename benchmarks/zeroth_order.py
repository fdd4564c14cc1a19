"""What training without backpropagation costs: time, memory, and how good ZO-GraSP's masks are.

    python -m benchmarks.zeroth_order --out=results/zeroth_order.json
    python -m benchmarks.zeroth_order --out=results/zeroth_order.json --sections=time

A call with ``--sections`` leaves the others of the file as they are.

time     a step of q two-sided directions over its 2q forward passes, on the character LLaMA, in
         turns, seconds of the processor
memory   what the compiler sets aside for a step of the LLaMA 60M besides arguments and results, in
         multiples of the parameters; nothing is allocated for it
tpu      the same by the compiler for a TPU v5e, which runs without one: pip install -e '.[tpu]'
grasp    the share of GraSP's mask that ZO-GraSP finds, on an MLP for digits
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import bilevel
from benchmarks import _report, _timing
from experiments import models
from experiments.common import markdown
from experiments.studies import _networks as nets
from optim import zeroth_order

COMMAND = "python -m benchmarks.zeroth_order"
RATE = 1e-6


def llama(size: str, vocabulary: int, length: int) -> tuple[models.Model, Callable[..., Any]]:
    """Returns a LLaMA and its ``loss(params, batch)``."""
    model = models.build("llama", input_shape=(length,), num_classes=vocabulary, size=size)

    def loss(params, batch):
        logits, _ = model.apply(params, {}, batch["x"], train=False)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

    return model, loss


def steps(loss: Callable[..., Any], samples: int = 1) -> dict[str, tuple[Any, Any]]:
    """Returns ``(init, step)`` of MeZO, of RGE with SGD, and of SGD by backpropagation."""
    solver = zeroth_order.mezo(loss, RATE, samples=samples)

    def descent(value_and_grad):
        def step(state, batch):
            params, count = state
            value, grads = value_and_grad(params, batch, count)
            return (jax.tree.map(lambda p, g: p - RATE * g, params, grads), count + 1), value

        return lambda params: (params, jnp.int32(0)), step

    estimated = zeroth_order.value_and_grad(loss, zeroth_order.rge(samples=samples))
    return {
        "MeZO": (lambda params: solver.init(params, jax.random.key(0)), solver.step),
        "RGE, SGD": descent(
            lambda p, batch, t: estimated(p, batch, jax.random.fold_in(jax.random.key(0), t))
        ),
        "backpropagation, SGD": descent(lambda p, batch, _: jax.value_and_grad(loss)(p, batch)),
    }


def times(rounds: int = 5) -> Iterator[dict[str, Any]]:
    """Yields how many forward passes a step costs, over the passes that it makes."""
    model, loss = llama("char", 65, 128)
    params = model.init(jax.random.key(0))[0]
    forward = jax.jit(loss)
    for examples, samples in ((1, 1), (4, 1), (16, 2), (64, 1)):
        tokens = np.random.default_rng(0).integers(0, 65, (2, examples, 128)).astype(np.int32)
        batch = dict(zip(("x", "label"), map(jnp.asarray, tokens), strict=True))
        calls: dict[str, Callable[[], Any]] = {
            "passes": lambda b=batch, n=2 * samples: [forward(params, b) for _ in range(n)]
        }
        for name, (init, step) in steps(loss, samples).items():
            if name != "backpropagation, SGD":
                calls[name] = _again(jax.jit(step, donate_argnums=0), init(params), batch)
        found = _timing.in_turns(calls, rounds, time.process_time, warm_up=1)
        yield {
            "examples": examples,
            "directions": samples,
            "pass": float(np.median(found["passes"])) / (2 * samples),
            "ratios": {k: _timing.ratio(found, k, "passes") for k in found if k != "passes"},
        }


def _again(step, state, batch) -> Callable[[], Any]:
    """A call that goes on from the state of the last one, which it donates."""
    held = jax.tree.map(jnp.copy, state)

    def call():
        nonlocal held
        held, value = step(held, batch)
        return value

    return call


def _shapes(examples: int, length: int = 256) -> tuple[Any, Any, Callable[..., Any]]:
    """Shapes of the parameters of the LLaMA 60M and of a batch, and its loss."""
    model, loss = llama("60M", 32_000, length)
    tokens = jax.ShapeDtypeStruct((examples, length), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0))[0]
    return params, {"x": tokens, "label": tokens}, loss


def temporaries(name: str, examples: int, samples: int = 1, options: Any = None) -> float:
    """Returns those of a donated step on the LLaMA 60M, over the size of the parameters."""
    params, batch, loss = _shapes(examples)
    init, step = steps(loss, samples)[name]
    lowered = jax.jit(step, donate_argnums=0).lower(jax.eval_shape(init, params), batch)
    return lowered.compile(options).memory_analysis().temp_size_in_bytes / _size(params)


def _size(params) -> int:
    return sum(p.size * p.dtype.itemsize for p in jax.tree.leaves(params))


def memory() -> Iterator[dict[str, Any]]:
    """Yields the temporaries of steps by this machine's compiler."""
    for examples in (1, 2, 4):
        for name, samples in (("MeZO", 1), ("backpropagation, SGD", 1), ("MeZO", 16)):
            if samples > 1 and examples != 1:
                continue
            found = temporaries(name, examples, samples)
            yield {"step": name, "examples": examples, "directions": samples, "over": found}


def tpu() -> Iterator[dict[str, Any]]:
    """Yields the same by the compiler for a TPU, of a network of twelve layers."""
    from benchmarks.tpu_compiler import chips  # It asks for libtpu.

    chip = chips.chip()
    matrices = [jax.ShapeDtypeStruct((512, 512), jnp.float32)] * 12
    rows = jax.ShapeDtypeStruct((8, 512), jnp.float32)

    def loss(params, x):
        for w in params:
            x = jnp.tanh(x @ w)
        return jnp.mean(x**2)

    for samples in (1, 16):
        init, step = steps(loss, samples)["MeZO"]
        state = chips.place(jax.eval_shape(init, matrices), chip)
        placed = chips.place(rows, chip)
        found = chips.findings(step, state, placed, donate_argnums=0)
        over = found["temporaries"] / _size(matrices)
        yield {"model": "12 matrices", "step": "MeZO", "directions": samples, "over": over}


def grasp(seeds: int = 3, density: float = 0.1) -> Iterator[dict[str, Any]]:
    """Yields the share of GraSP's mask that is in that of ZO-GraSP."""

    def loss(params, batch):
        x, y = batch
        return nets.cross_entropy(nets.mlp(params, x), y)

    parts = [nets.load(seed)["train"] for seed in range(seeds)]
    batches = [(x[:256], y[:256]) for x, y in parts]
    starts = [nets.mlp_init(jax.random.key(seed), (64, 32, 10)) for seed in range(seeds)]
    exact = jax.jit(lambda p, b: bilevel.criteria.grasp(loss, p, [b]))

    def mask(scores):
        found = bilevel.masks.from_scores(scores, density, absolute=False)
        return np.concatenate([np.ravel(m) for m in jax.tree.leaves(found)])

    wanted = [mask(exact(p, b)) for p, b in zip(starts, batches, strict=True)]
    for mu in (5e-3, 0.5):
        for num in (192, 1920, 7680):

            @jax.jit
            def scores(params, batch, key, mu=mu, num=num):
                f = lambda p: loss(p, batch)  # noqa: E731
                return bilevel.criteria.zo_grasp(f, params, key, num, mu)

            shares = []
            for seed in range(seeds):
                found = mask(scores(starts[seed], batches[seed], jax.random.key(seed)))
                shares.append(float((found & wanted[seed]).sum() / wanted[seed].sum()))
            yield {"mu": mu, "directions": num, "density": density, "shares": shares}


SECTIONS = {"time": times, "memory": memory, "tpu": tpu, "grasp": grasp}


def page(results: dict[str, Any]) -> str:
    """Returns the page as Markdown."""
    lines = ["# Training without backpropagation: what it costs", ""]
    for name, section in results["sections"].items():
        about = f"`{section['command']}`, {section['machine']}, jax {section['versions']['jax']}"
        about += f", load {section['load']:g}." if name == "time" else "."
        lines += [*_PAGES[name](section["rows"]), "", about, ""]
    return "\n".join(lines)


def _time_page(rows):
    names = list(rows[0]["ratios"])
    table = [
        [
            str(r["examples"]),
            str(r["directions"]),
            f"{1e3 * r['pass']:.1f} ms",
            *(f"{r['ratios'][n]:.2f}" for n in names),
        ]
        for r in rows
    ]
    return [
        "## A step over its forward passes",
        "",
        "LLaMA char (.6M parameters), 128 tokens an example, seconds of the processor, median over"
        " rounds in turns. A step of q directions makes 2q forward passes; the goal is 1.1 times"
        " their time. What is above 1 is the making of random numbers, which does not grow with the"
        " batch.",
        "",
        *markdown.table(["examples", "directions", "a pass", *names], table, "rrrrr"),
    ]


def _memory_table(rows):
    table = [
        [r["step"], str(r["directions"]), str(r["examples"]), f"{r['over']:.2f}"] for r in rows
    ]
    head = ["step", "directions", "examples", "temporaries / parameters"]
    return markdown.table(head, table, "lrrr")


def crossing(rows: list[dict[str, Any]]) -> int | None:
    """Returns the least batch from which MeZO needs less than backpropagation."""
    over = {(r["step"], r["examples"]): r["over"] for r in rows if r["directions"] == 1}
    sizes = sorted({examples for _, examples in over})
    least = None
    for examples in reversed(sizes):
        if over["MeZO", examples] >= over["backpropagation, SGD", examples]:
            break
        least = examples
    return least


def _memory_page(rows):
    least = crossing(rows)
    said = "at none of these batches" if least is None else f"from a batch of {least} on"
    return [
        "## Memory of a step",
        "",
        "LLaMA 60M, 256 tokens an example: temporaries by the compiler for this CPU. MeZO needs"
        f" less than backpropagation {said}.",
        "",
        *_memory_table(rows),
    ]


def _tpu_page(rows):
    table = [[r["model"], r["step"], str(r["directions"]), f"{r['over']:.2f}"] for r in rows]
    head = ["model", "step", "directions", "temporaries / parameters"]
    return [
        "## Memory of a step on a TPU",
        "",
        "By the compiler for a TPU v5e; nothing ran on one. Twelve layers of 512 x 512.",
        "",
        *markdown.table(head, table, "llrr"),
    ]


def _grasp_page(rows):
    table = [
        [
            f"{r['mu']:g}",
            str(r["directions"]),
            f"{100 * np.mean(r['shares']):.1f} %",
            ", ".join(f"{100 * s:.1f}" for s in r["shares"]),
        ]
        for r in rows
    ]
    return [
        "## ZO-GraSP's masks against GraSP's",
        "",
        f"MLP 64-32-10 on 256 digits before training, density {rows[0]['density']:g}: the share of"
        " GraSP's mask that is in that of ZO-GraSP; a mask by chance has"
        f" {100 * rows[0]['density']:g} %. DeepZero's program has mu .005 and 192 directions."
        " The score divides the difference of two estimates, of directions of their own, by mu:"
        " at these numbers it is mostly noise.",
        "",
        *markdown.table(["mu", "directions", "share, mean", "seeds"], table, "rrrl"),
    ]


_PAGES = {"time": _time_page, "memory": _memory_page, "tpu": _tpu_page, "grasp": _grasp_page}


def main() -> None:
    """Measures the sections, and writes after each row."""
    made = _report.parser(__doc__)
    made.add_argument("--sections", default=",".join(SECTIONS), help="Separated by commas.")
    args = made.parse_args()
    results: dict[str, Any] = {"sections": {}}
    if args.out and args.out.exists():
        results = json.loads(args.out.read_text(encoding="utf-8"))
    for name in args.sections.split(","):
        about = _report.found_with(f"{COMMAND} --sections={name}")
        found = {**about, "load": round(os.getloadavg()[0], 1), "rows": []}
        for row in SECTIONS[name]():
            print(name, row, flush=True)
            found["rows"].append(row)
            held = {**results["sections"], name: found}
            results["sections"] = {k: held[k] for k in SECTIONS if k in held}
            _report.write(results, page, args.out)


if __name__ == "__main__":
    main()
