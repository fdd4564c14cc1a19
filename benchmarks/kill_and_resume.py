"""Kills a training run at random moments, repeats its command, and compares with a calm run.

    python -m benchmarks.kill_and_resume --kills=10

Ends with status 0 if the final parameters and every line of metrics.jsonl but its time fields are
bit-identical to those of a run that was never killed.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from absl import app, flags

from configs import digits
from experiments import checkpoints, records, supervised

# A save every ten steps: many a kill hits one.
OVERRIDES = {"log_every": 5, "eval_every": 10, "save_every": 10}


def command(workdir: Path, epochs: int) -> list[str]:
    """Returns the command of the run that is killed."""
    overrides = [f"--config.{key}={value}" for key, value in OVERRIDES.items()]
    overrides.append(f"--config.epochs={epochs}")
    return [sys.executable, "-m", "experiments.train", f"--workdir={workdir}", *overrides]


def run_killed(workdir: Path, kills: int, epochs: int, seed: int) -> int:
    """Repeats the command until it ends, killing it up to ``kills`` times; returns how often."""
    rng, done, log = random.Random(seed), 0, workdir / "metrics.jsonl"

    def written():
        return log.stat().st_mtime_ns if log.exists() else None

    while True:
        before = written()
        process = subprocess.Popen(
            command(workdir, epochs), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        if done < kills:
            # The first kill is before the first step; the others are a while after one.
            while process.poll() is None and not (
                written() != before or (done == 0 and (workdir / "config.json").exists())
            ):
                time.sleep(0.01)
            time.sleep(rng.uniform(0.0, 1.0) if done else 0.0)
            process.kill()
        code = process.wait()
        if code == 0:
            return done
        if done == kills:
            raise RuntimeError(f"status {code} from {' '.join(command(workdir, epochs))}")
        done += 1


def outcome(workdir: Path, epochs: int) -> tuple[list[dict], dict[str, np.ndarray]]:
    """Returns the lines of metrics.jsonl without time fields, and the final state by path."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    lines = [{k: v for k, v in row.items() if k not in records.TIME_FIELDS} for row in lines]
    config = digits.get_config()
    config.update(OVERRIDES)
    config.epochs = float(epochs)
    state, _ = supervised.start(supervised.job_of(config, None), [config])
    store = checkpoints.Checkpoints(workdir / "checkpoints", best="valid/accuracy")
    restored = store.restore(state)
    store.close()
    if restored is None:
        raise RuntimeError(f"{workdir} holds no checkpoint")
    leaves = jax.tree_util.tree_leaves_with_path(restored[0])
    return lines, {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves}


def compare(folder: Path, kills: int, epochs: int, seed: int = 0) -> tuple[int, list[str]]:
    """Returns how often the run was killed, and what differs from the calm one."""
    subprocess.run(command(folder / "calm", epochs), check=True, capture_output=True)
    done = run_killed(folder / "killed", kills, epochs, seed)
    (calm, want), (killed, got) = (outcome(folder / n, epochs) for n in ("calm", "killed"))
    differences = [f"line {a} became {b}" for a, b in zip(calm, killed, strict=False) if a != b]
    if len(calm) != len(killed):
        differences.append(f"{len(calm)} lines became {len(killed)}")
    differences += [name for name in want if not np.array_equal(want[name], got[name])]
    return done, differences


def main(_) -> None:
    """Prints what differs, and exits with 1 if anything does."""
    with tempfile.TemporaryDirectory() as folder:
        done, differences = compare(Path(folder), flags.FLAGS.kills, 40, flags.FLAGS.seed)
    print(f"{done} kills; {len(differences)} differences from the run that was never killed")
    for difference in differences:
        print(difference)
    sys.exit(bool(differences))


if __name__ == "__main__":
    flags.DEFINE_integer("kills", 10, "Number of kills.", lower_bound=0)
    flags.DEFINE_integer("seed", 0, "Of the moments.")
    app.run(main)
