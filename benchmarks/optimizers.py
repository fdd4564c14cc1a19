"""What the optimizers cost: state, memory traffic by the compiler, time beside others.

    python -m benchmarks.optimizers --out=results/optimizers_cpu.md
    python -m benchmarks.optimizers --adamp_path=DIR --diffgrad_path=DIR

The second form also times the authors' PyTorch code, from checkouts of clovaai/AdamP and
shivram1987/diffGrad, in the same rounds (needs torch). On a GPU it measures bandwidth instead.
"""

import importlib.util
import statistics
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

import optim
from benchmarks._shapes import elements, transformer
from benchmarks._timing import cost, donated_step, in_turns, ratio

OUT = flags.DEFINE_string("out", None, "Markdown file to write beside printing.")
ROUNDS = flags.DEFINE_integer("rounds", 25, "Rounds of the timing, one step of each per round.")
ADAMP = flags.DEFINE_string("adamp_path", None, "Checkout of clovaai/AdamP.")
DIFFGRAD = flags.DEFINE_string("diffgrad_path", None, "Checkout of shivram1987/diffGrad.")
GPU_PARAMS = flags.DEFINE_float("gpu_params", 1e9, "Parameters of the GPU section.")
MACHINE = flags.DEFINE_string("machine", "", "The machine, in words, for the header.")

# Name: optimizer, least bytes per parameter (every array read and written once; AdamP and SGDP need
# the sums over p and g before the step: two passes), why the compiled step moves more on CPU.
ONE_LOOP = "one loop for every output, so inputs are read once per output"
CONTESTANTS = {
    "optax.adamw": (optax.adamw(1e-3), 28, ONE_LOOP),
    "optim.adamp": (
        optim.adamp(1e-3, weight_decay=1e-2),
        40,
        ONE_LOOP + "; four sums and the direction between them and the step",
    ),
    "optim.diffgrad": (optim.diffgrad(1e-3), 36, ONE_LOOP),
    "optax.sgd momentum": (optax.sgd(1e-3, 0.9), 20, ONE_LOOP),
    "optim.sgdp": (
        optim.sgdp(1e-3, 0.9, weight_decay=1e-4),
        32,
        ONE_LOOP + "; four sums and the direction between them and the step",
    ),
    "optax.lion": (optax.lion(1e-3), 20, ONE_LOOP + "; a copy of the momentum"),
    "optim.lion": (optim.lion(1e-3), 20, ONE_LOOP),
    "optim.lion_k huber": (optim.lion_k(1e-3, optim.kappas.huber(0.1)), 20, ONE_LOOP),
}
AUTHORS = {
    "optim.adamp": "AdamP, PyTorch",
    "optim.sgdp": "SGDP, PyTorch",
    "optim.diffgrad": "diffGrad v2, PyTorch",
}


def traffic(report) -> None:
    """State, bytes accessed and temporary bytes per parameter, without running anything."""
    params = transformer(1024, 2, 256)
    size = elements(params) / 1e6
    report(f"\n## Memory of one donated update, {size:.1f}M parameters, by the compiler\n")
    report("| bytes per float32 parameter | state | accessed | temporary | floor | excess |")
    report("|---|---|---|---|---|---|")
    for name, (tx, floor, reason) in CONTESTANTS.items():
        held, accessed, temporary = cost(tx, params)
        excess = reason if accessed > floor + 0.5 else ""
        report(f"| {name} | {held:.1f} | {accessed:.1f} | {temporary:.2f} | {floor} | {excess} |")


def jax_runner(tx, shapes):
    """Returns a function that makes one step and waits for it."""
    rng = np.random.default_rng(0)

    def random():
        draw = lambda s: jnp.asarray(rng.standard_normal(s.shape, np.float32))  # noqa: E731
        return jax.tree.map(draw, shapes)

    params, grads = random(), random()
    step, state = donated_step(tx), jax.jit(tx.init)(params)

    def run():
        nonlocal params, state
        params, state = step(params, state, grads)
        jax.block_until_ready((params, state))

    return run


def torch_runners(shapes) -> dict:
    """Returns the authors' optimizers that can be had, as runners."""
    if not (ADAMP.value or DIFFGRAD.value):
        return {}
    import torch

    torch.manual_seed(0)
    classes = {}
    if ADAMP.value:
        sys.path.insert(0, ADAMP.value)
        from adamp import SGDP, AdamP  # pyrefly: ignore[missing-import]

        classes["AdamP, PyTorch"] = lambda p: AdamP(p, lr=1e-3, weight_decay=1e-2)
        classes["SGDP, PyTorch"] = lambda p: SGDP(p, lr=1e-3, momentum=0.9, weight_decay=1e-4)
    if DIFFGRAD.value:
        spec = importlib.util.spec_from_file_location(
            "diffgrad_v2", Path(DIFFGRAD.value) / "diffGrad_v2.py"
        )
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        classes["diffGrad v2, PyTorch"] = lambda p: module.diffgrad(p, lr=1e-3)

    def runner(make):
        params = [torch.randn(s.shape) for s in jax.tree.leaves(shapes)]
        for p in params:
            p.requires_grad_()
            p.grad = torch.randn_like(p)
        return make(params).step

    return {name: runner(make) for name, make in classes.items()}


def timing(report, shapes, runners: dict, baseline: str, partners: dict) -> None:
    """Rounds of one step of each, in random order; ratios are medians over rounds."""
    times = in_turns(runners, ROUNDS.value, warm_up=3)
    size = elements(shapes) / 1e6
    report(f"\n## Time of one update, {size:.1f}M parameters, {ROUNDS.value} rounds\n")
    report(f"| | median ms | best ms | / {baseline} | / partner |")
    report("|---|---|---|---|---|")
    for name in runners:
        milliseconds = 1e3 * statistics.median(times[name]), 1e3 * min(times[name])
        partner = partners.get(name)
        beside = f"{ratio(times, name, partner):.2f} of {partner}" if partner in runners else ""
        report(
            f"| {name} | {milliseconds[0]:.1f} | {milliseconds[1]:.1f} "
            f"| {ratio(times, name, baseline):.2f} | {beside} |"
        )


def bandwidth(report) -> None:
    """Share of the measured copy bandwidth that the least traffic of each update reaches."""
    width = 4096
    shapes = transformer(width, max(1, round(GPU_PARAMS.value / (12 * width**2))), 8)
    size = elements(shapes)

    def best(run, repeats=10):
        run()
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        return min(seconds), statistics.median(seconds)

    block = jnp.zeros(int(size), jnp.float32)
    copy = jax.jit(lambda x: x + 1, donate_argnums=0)

    def copy_once():
        nonlocal block
        block = copy(block).block_until_ready()

    _, seconds = best(copy_once)
    peak = 8 * size / seconds
    block = None
    report(f"\n## GPU, {size / 1e9:.2f}e9 parameters; copy {peak / 1e12:.2f} TB/s\n")
    report("| | median ms | TB/s of the floor | share of copy | temporary bytes per parameter |")
    report("|---|---|---|---|---|")
    for name, (tx, floor, _) in CONTESTANTS.items():
        temporary = cost(tx, shapes).temporary
        _, seconds = best(jax_runner(tx, shapes))
        rate = floor * size / seconds
        report(
            f"| {name} | {1e3 * seconds:.2f} | {rate / 1e12:.2f} | {rate / peak:.0%} "
            f"| {temporary:.2f} |"
        )


def main(_) -> None:
    lines = []

    def report(line):
        lines.append(line)
        print(line, flush=True)

    device = jax.devices()[0]
    report("# Cost of the optimizers\n")
    report(
        f"{MACHINE.value or device.device_kind}; jax {jax.__version__}, optax {optax.__version__}."
    )
    paths = " --adamp_path=DIR" * bool(ADAMP.value) + " --diffgrad_path=DIR" * bool(DIFFGRAD.value)
    report(f"`python -m benchmarks.optimizers{paths}`")
    traffic(report)
    if device.platform == "gpu":
        bandwidth(report)
    else:
        large = transformer(1024, 2, 256)
        runners = {name: jax_runner(tx, large) for name, (tx, _, _) in CONTESTANTS.items()}
        timing(report, large, runners, "optax.adamw", {"optim.lion": "optax.lion"})
        del runners
        small = transformer(512, 3, 1024)
        same = {  # The authors' rows: the first axis.
            "optax.adamw": optax.adamw(1e-3),
            "optim.adamp": optim.adamp(1e-3, weight_decay=1e-2, channel_axis=0),
            "optim.sgdp": optim.sgdp(1e-3, 0.9, weight_decay=1e-4, channel_axis=0),
            "optim.diffgrad": optim.diffgrad(1e-3),
        }
        runners = {name: jax_runner(tx, small) for name, tx in same.items()}
        runners |= torch_runners(small)
        if len(runners) > len(same):
            timing(report, small, runners, "optax.adamw", AUTHORS)
    if OUT.value:
        Path(OUT.value).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    app.run(main)
