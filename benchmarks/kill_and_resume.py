"""Kills a training run at random moments, repeats its command, and compares with a calm run.

    python -m benchmarks.kill_and_resume --kills=10
    python -m benchmarks.kill_and_resume --kills=3 --config=configs/frugal_tinyshakespeare.py \\
        --data_dir=DATA --set=steps=60 --set=batch_size=8 --set=optimizer.density=0.25 \\
        --set=optimizer.update_gap=7 --set=schedule.warmup=5
    JAX_NUM_CPU_DEVICES=8 python -m benchmarks.kill_and_resume --sharding=fsdp --set=epochs=40.0

Ends with status 0 if the final parameters and every line of metrics.jsonl but its time fields are
bit-identical to those of a run that was never killed. The second form changes FRUGAL's subspace
between the saves.
"""

import json
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from benchmarks import _kill
from experiments import train
from experiments.common import checkpoints, config_files, runs
from experiments.supervised import training

# A save every ten steps: many a kill hits one.
OFTEN = ("log_every=5", "eval_every=10", "save_every=10")


def outcome(workdir: Path, data_dir: str | None) -> tuple[list[dict], dict[str, np.ndarray]]:
    """Returns the lines of metrics.jsonl without time fields, and the final state by path."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    lines = [{k: v for k, v in row.items() if k not in runs.TIME_FIELDS} for row in lines]
    config = ConfigDict(json.loads((workdir / "config.json").read_text()))
    state, _ = training.start(training.job_of(config, data_dir), [config])
    store = checkpoints.Checkpoints(workdir / "checkpoints", best="valid/accuracy")
    restored = store.restore(state)
    store.close()
    if restored is None:
        raise RuntimeError(f"{workdir} holds no checkpoint")
    leaves = jax.tree_util.tree_leaves_with_path(restored[0])
    return lines, {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves}


def compare(
    folder: Path,
    kills: int,
    overrides: Sequence[str],
    config: str = "configs/digits.py",
    data_dir: str | None = None,
    seed: int = 0,
    sharding: str = "replicated",
) -> tuple[int, list[str]]:
    """Returns how often the run was killed, and what differs from the calm one of this process."""
    workdir, rng = folder / "killed", random.Random(seed)
    command = [sys.executable, "-m", "experiments.train", f"--config={config}"]
    command += [f"--config.{override}" for override in (*OFTEN, *overrides)]
    command += [f"--data_dir={data_dir}"] if data_dir else []
    command += [f"--workdir={workdir}", f"--sharding={sharding}"]

    def left():
        log = workdir / "metrics.jsonl"
        return len(log.read_text().splitlines()) // 4 if log.exists() else 0

    done = _kill.run_killed(
        command,
        kills,
        left,
        # After four lines two saves are whole or under way; the first kill does not wait.
        lambda done: rng.uniform(0.0, 1.0) if done else 0.0,
    )
    texts = dict(override.split("=", 1) for override in (*OFTEN, *overrides))
    chosen = config_files.override_texts(config_files.load(config), texts)
    train.run_population([chosen], folder / "calm", data_dir, quiet=True, sharding=sharding)
    (calm, want), (killed, got) = (outcome(folder / n, data_dir) for n in ("calm", "killed"))
    differences = [f"line {a} became {b}" for a, b in zip(calm, killed, strict=False) if a != b]
    if len(calm) != len(killed):
        differences.append(f"{len(calm)} lines became {len(killed)}")
    differences += [name for name in want if not np.array_equal(want[name], got[name])]
    return done, differences


def main(_) -> None:
    """Prints what differs, and exits with 1 if anything does."""
    f = flags.FLAGS
    with tempfile.TemporaryDirectory() as folder:
        done, differences = compare(
            Path(folder), f.kills, f.set, f.config, f.data_dir, f.seed, f.sharding
        )
    print(f"{done} kills; {len(differences)} differences from the run that was never killed")
    for difference in differences:
        print(difference)
    sys.exit(bool(differences))


if __name__ == "__main__":
    flags.DEFINE_integer("kills", 10, "Number of kills.", lower_bound=0)
    flags.DEFINE_integer("seed", 0, "Of the moments.")
    flags.DEFINE_string("config", "configs/digits.py", "What to train.")
    flags.DEFINE_multi_string("set", ["epochs=40.0"], "Keys of the config, as key=value.")
    flags.DEFINE_string("data_dir", None, "Folder of the data sets.")
    flags.DEFINE_string("sharding", "replicated", "As of experiments.train.")
    app.run(main)
