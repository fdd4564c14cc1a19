"""Speed of the bilevel solvers: against the LV-HBA authors' scripts, and in gradients.

    python -m benchmarks.bilevel --part=gradients
    OMP_NUM_THREADS=1 NPROC=1 python -m benchmarks.bilevel --part=authors --lvhba_path=LV-HBA

`authors` times an iteration of their LLC, LLSC and linear-SVM scripts (a clone of their repository;
it needs torch, cvxpy and ecos) and of ours, on the same problem, in turns, in this process: LLC
and LLSC in float64, SVM in float32, as theirs. `gradients` compares one step of each solver, on a
lower level of ten million parameters (a multilayer perceptron on 28 x 28 images) and an upper one
of a weight for each sample, with the plain gradients that its definition needs, each with its
value, which the step reports. It shows the memory that the step takes beyond its state, in units of
y, beside the number of y-gradients of a single inner step. Operations are the compiler's count at
T = 1 over that of the plain gradients.
Times are CPU seconds of this process, which other work on the machine disturbs least; pin it to one
core (`taskset -c 0`).
"""

import importlib.util
import io
import itertools
import os
import statistics
import sys
import time
from contextlib import chdir, redirect_stdout
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

import bilevel
from bilevel import power
from experiments.problems import constrained, svm
from optim import loop

PART = flags.DEFINE_enum("part", "gradients", ["gradients", "authors"], "What to measure.")
LVHBA_PATH = flags.DEFINE_string("lvhba_path", None, "Clone of the LV-HBA authors' repository.")
ROUNDS = flags.DEFINE_integer("rounds", 5, "Interleaved rounds; medians are shown.", lower_bound=1)
WIDTH = flags.DEFINE_integer("width", 2800, "Width of the two hidden layers.", lower_bound=1)
BATCH = flags.DEFINE_integer("batch", 512, "Samples in a batch.", lower_bound=1)
INNER = flags.DEFINE_integer("inner_steps", 5, "T of the double loops.", lower_bound=1)
NAMES = ("f2sa", "f3sa", "penalty1", "penalty2", "lv_hba")
SOLVERS = flags.DEFINE_multi_enum("solver", [], NAMES, "Solvers to measure; all by default.")


def script(path: Path):
    """Imports a script, its plots off and its output dropped."""
    import matplotlib

    matplotlib.use("Agg")
    spec = importlib.util.spec_from_file_location("theirs", path)
    module = importlib.util.module_from_spec(spec)
    with redirect_stdout(io.StringIO()):
        spec.loader.exec_module(module)
    return module


def ours(task, solver, steps: int, x64: bool):
    """Returns a function that runs ``steps`` iterations and returns the seconds of one."""

    def run():
        with jax.enable_x64(x64):
            state = solver.init(task.problem, task.x0, task.y0)
            begin = time.process_time()
            state = loop.run(solver.step, state, None, steps, steps_per_call=steps)
            jax.block_until_ready(state.x)
            return (time.process_time() - begin) / steps

    run()  # Compiles.
    return run


def llc(root: Path):
    module = script(root / "Toy-example/LLC/LV-HBA.py")

    def theirs(steps=1500):
        begin = time.process_time()
        module.fun(steps)
        return (time.process_time() - begin) / steps

    solver = bilevel.lv_hba(0.008, 0.02, 0.01, 10.0, 10.0, power(0.025, 0.3))
    with jax.enable_x64(True):
        return theirs, ours(constrained.llc(), solver, 3000, True)


def llsc(root: Path):
    import torch

    folder = root / "Toy-example/LLSC"
    module = script(folder / "LV-HBA.py")
    files = {"A": "A", "B": "B", "H": "h", "c": "D", "d": "E"}
    matrices = {k: np.load(folder / f"{v}.npy") for k, v in files.items()}
    for name, value in matrices.items():
        setattr(module, name, torch.from_numpy(value))

    def theirs(steps=100):
        with redirect_stdout(io.StringIO()):
            begin = time.process_time()
            module.fun(steps, alpha=0.02, beta=0.001, eta=0.1, gamma1=1, gamma2=1)
            return (time.process_time() - begin) / steps

    onto = bilevel.projections.affine(matrices["A"])
    solver = bilevel.lv_hba(
        0.02, 0.001, 0.1, project_theta=lambda theta, x: onto(theta, -matrices["H"] @ x)
    )
    with jax.enable_x64(True):
        return theirs, ours(constrained.llsc(matrices), solver, 2000, True)


def linear_svm(root: Path):
    folder = root / "Hyperparameter optimization/Linear SVM/diabetes"
    module = script(folder / "LV-HBA.py")

    def run(steps):
        with redirect_stdout(io.StringIO()), chdir(folder):
            begin = time.process_time()
            module.run(1, steps)
            return time.process_time() - begin

    def theirs(steps=30):  # The first iteration builds and compiles their projection.
        return (run(steps + 1) - run(1)) / steps

    solver = bilevel.lv_hba(0.01, 0.1, 0.01, 10.0, 10.0, power(1.0, 0.5))
    return theirs, ours(svm("diabetes", str(folder)), solver, 2000, False)


def against_authors(root: Path) -> None:
    import torch

    torch.set_num_threads(1)
    for name, make in (("LLC", llc), ("LLSC", llsc), ("SVM diabetes", linear_svm)):
        theirs, mine = make(root)
        pairs = [(theirs(), mine()) for _ in range(ROUNDS.value)]
        a, b = (statistics.median(p) for p in zip(*pairs, strict=True))
        ratio = statistics.median(p / q for p, q in pairs)
        print(
            f"{name:13} theirs {a * 1e6:8.0f} us  ours {b * 1e6:6.1f} us an iteration  "
            f"ratio {ratio:.0f}, lowest of {ROUNDS.value} pairs "
            f"{min(p / q for p, q in pairs):.0f}",
            flush=True,
        )


def mlp_task(width: int, batch: int):
    """Sample weights for a 784-width-width-10 perceptron; images are noise: only time matters."""
    rng = np.random.default_rng(0)
    sizes = [784, width, width, 10]
    y = [
        {"w": rng.standard_normal((m, n), np.float32) / np.sqrt(m), "b": np.zeros(n, np.float32)}
        for m, n in itertools.pairwise(sizes)
    ]

    def losses(y, data):
        h = data["image"]
        for layer in y[:-1]:
            h = jax.nn.relu(h @ layer["w"] + layer["b"][None])
        logits = h @ y[-1]["w"] + y[-1]["b"][None]
        picked = jnp.take_along_axis(logits, data["label"][:, None], 1)[:, 0]
        return jax.nn.logsumexp(logits, 1) - picked

    problem = bilevel.Problem(
        upper=lambda x, y, data: jnp.mean(losses(y, data)),
        lower=lambda x, y, data: jnp.mean(jax.nn.sigmoid(x[data["row"]]) * losses(y, data)),
    )

    def draw():
        return {
            "image": jnp.asarray(rng.random((batch, 784), np.float32)),
            "label": jnp.asarray(rng.integers(0, 10, batch)),
            "row": jnp.asarray(rng.integers(0, 1000, batch)),
        }

    return problem, np.zeros(1000, np.float32), y, (draw(), draw())


def needs(name: str, inner_steps: int) -> dict:
    """Returns the gradients of the definition, by (level, variable), as in the docstrings."""
    double = {
        ("upper", 1): inner_steps, ("lower", 1): 2 * inner_steps, ("upper", 0): 1, ("lower", 0): 2
    }  # fmt: skip
    momentum = {("upper", 1): 2, ("lower", 1): 4, ("upper", 0): 2, ("lower", 0): 4}
    joint = {("upper", (0, 1)): 1, ("lower", (0, 1)): 1, ("lower", 1): 1, ("lower", 0): 1}
    return {
        "f2sa": double, "penalty1": double, "f3sa": momentum, "penalty2": momentum, "lv_hba": joint
    }[name]  # fmt: skip


def make_solver(name: str, inner_steps: int):
    return {
        "f2sa": lambda: bilevel.f2sa(0.01, 0.02, inner_steps=inner_steps, step_ratio=1.0),
        "penalty1": lambda: bilevel.penalty(0.1, 0.8, 0.02, 0.1, 1.0, inner_steps),
        "f3sa": lambda: bilevel.f3sa(0.01, 0.02, 0.5, step_ratio=1.0),
        "penalty2": lambda: bilevel.penalty(0.1, 0.8, 0.02, 0.1, 1.0, momentum=0.5),
        "lv_hba": lambda: bilevel.lv_hba(0.02, 0.1, 0.02),
    }[name]()


def in_gradients() -> None:
    problem, x0, y0, batch = mlp_task(WIDTH.value, BATCH.value)
    size = sum(a.size for a in jax.tree.leaves(y0))
    print(f"lower level: {size / 1e6:.2f} million parameters, batch {BATCH.value}", flush=True)
    share = {"upper": batch[0], "lower": batch[1]}
    x, y = jnp.asarray(x0), jax.tree.map(jnp.asarray, y0)
    kinds = {kind for name in NAMES for kind in needs(name, 1)}
    plain = {
        (level, arg): jax.jit(jax.value_and_grad(getattr(problem, level), arg))
        .lower(x, y, share[level])
        .compile()
        for level, arg in kinds
    }

    def flops(compiled):
        return compiled.cost_analysis().get("flops", 0.0)

    def timed(fun, *args):
        begin = time.process_time()
        out = jax.block_until_ready(fun(*args))
        return time.process_time() - begin, out

    for name in SOLVERS.value or NAMES:
        once, need = needs(name, 1), needs(name, INNER.value)

        def compiled(inner_steps, name=name):
            solver = make_solver(name, inner_steps)
            state = solver.init(problem, x0, y0)
            options = loop.compiler_options()
            step = jax.jit(solver.step, donate_argnums=0, compiler_options=options)
            return step.lower(state, batch).compile(), state

        single, _ = compiled(1)  # The compiler's count takes a loop's body once.
        operations = flops(single) / sum(n * flops(plain[kind]) for kind, n in once.items())
        step, state = compiled(INNER.value)
        variables = sum(a.size for a in jax.tree.leaves(state)) / size
        temp = step.memory_analysis().temp_size_in_bytes / size / 4
        own = sum(n for (_, arg), n in once.items() if arg != 0)
        pairs = []
        for _ in range(ROUNDS.value + 1):
            seconds, (state, _) = timed(step, state, batch)
            floor = sum(
                timed(plain[kind], x, y, share[kind[0]])[0]
                for kind, times in need.items()
                for _ in range(times)
            )
            pairs.append((seconds, floor))
        a, b = (statistics.median(p) for p in zip(*pairs[1:], strict=True))
        ratio = statistics.median(p / q for p, q in pairs[1:])
        print(
            f"{name:9} {sum(need.values()):2d} gradients {b * 1e3:6.0f} ms, "
            f"step {a * 1e3:6.0f} ms, ratio {ratio:.3f}; operations ratio {operations:.3f}; "
            f"state {variables:.2f} y, temporaries {temp:.2f} y, gradients in y {own}",
            flush=True,
        )


def main(_) -> None:
    cores = len(os.sched_getaffinity(0))
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, {cores} cores")
    if PART.value == "gradients":
        in_gradients()
    elif LVHBA_PATH.value is None or not (Path(LVHBA_PATH.value) / "Toy-example").is_dir():
        sys.exit(f"--lvhba_path must be a clone of the authors' repository, got {LVHBA_PATH.value}")
    else:
        against_authors(Path(LVHBA_PATH.value).resolve())


if __name__ == "__main__":
    app.run(main)
