"""What the TPU compiler makes of this code, on a machine without a TPU.

    pip install -e '.[tpu]'                                 # brings the compiler, libtpu
    python -m benchmarks.tpu_compiler --out=results/tpu     # all parts
    python -m benchmarks.tpu_compiler --parts=updates --only=lion,adamp

Programs are compiled ahead of time for chips of a TPU v5e: nothing runs, nothing is allocated. Each
is lowered for CUDA too. A compilation takes seconds to minutes, so programs that the folder has
from an earlier run of the same versions are kept; --only compiles them anew.

updates     one update of each optimizer on a LLaMA 60M: bytes accessed and temporaries per
            parameter, beside those of the optimizer of Optax that a user would take instead
matrix      one update of one matrix, with the gradient as an argument and made in the program
optimizers  one update of every optimizer on four small arrays split over 4 chips (2x2)
training    a training step of each model, data parallel on 4 chips: its collectives
sharded     a training step of the LLaMA with parameters and states split over 4 and over 256 chips
            (16x16): collectives and bytes on each chip
solvers     a step of each solver on one chip: bilevel, pruning, without backpropagation

Compilation fails on what a TPU cannot do. Two further things are looked for in each program and
named if they are there: a call back to the host, and float64.
"""

import importlib.metadata
import json
import sys
from pathlib import Path

import jax
from absl import app, flags

from benchmarks.tpu_compiler.page import PARTS, page
from experiments.common import files, launch, provenance

STEM = "compiler"
COMMAND = "python -m benchmarks.tpu_compiler --out=results/tpu"
COLLECTIVES = ("all-reduce", "reduce-scatter", "all-gather", "all-to-all", "collective-permute")


def main(argv) -> None:
    """Compiles, and writes after each program."""
    del argv
    flag, out = flags.FLAGS, Path(flags.FLAGS.out)
    jax.config.update("jax_enable_compilation_cache", False)  # No TPU's program is read back here.
    versions = {**provenance.versions(), "libtpu": importlib.metadata.version("libtpu")}
    content = {"versions": versions, "parts": {}}
    if flag.out and (out / f"{STEM}.json").exists():
        before = json.loads((out / f"{STEM}.json").read_text(encoding="utf-8"))
        content = before if before["versions"] == versions else content
    for part in flag.parts:
        names, compiled, _ = PARTS[part]
        rows = {row["name"]: row for row in content["parts"].get(part, ())}
        for name in flag.only or [name for name in names if name not in rows]:
            if name not in names:
                continue  # Of another part.
            rows[name] = {"name": name, **compiled(name)}
            print(f"{part}: {name}: {rows[name]['compiled_in']:.1f} s", flush=True)
            parts = {**content["parts"], part: [rows[name] for name in names if name in rows]}
            content["parts"] = {part: parts[part] for part in PARTS if part in parts}
            if flag.out:
                files.write(out / f"{STEM}.json", json.dumps(content, indent=1) + "\n")
                files.write(out / f"{STEM}.md", page(content))
    print(page(content))


if __name__ == "__main__":
    flags.DEFINE_list("parts", list(PARTS), "Which parts.")
    flags.DEFINE_list("only", [], "Rows of them by name; all that are missing by default.")
    flags.DEFINE_string("out", "", "Folder for the JSON and the page, beside printing.")
    sys.exit(launch.guard(lambda: app.run(main)))
