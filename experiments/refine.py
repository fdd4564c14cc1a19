"""Refines a schedule: pilot with recorded gradient norms, refinement, picture, comparison.

python -m experiments.refine --config=configs/refine/digits.py
python -m experiments.refine --config=configs/refine/digits.py --norms=gradient_norms.csv
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

import optim
from experiments import train
from experiments.common import checkpoints, figures, files, launch, markdown, runs
from experiments.schedules.norm_files import read_norms
from experiments.supervised import training
from experiments.tables import stats


def variant(config: ConfigDict, schedule: dict[str, Any], rate: float, seed: int) -> ConfigDict:
    """Returns the training config with this schedule, learning rate and seed."""
    new = config.train.copy_and_resolve_references()
    with new.unlocked():
        new.schedule = ConfigDict({"warmup": 0, **schedule})
    new.optimizer.learning_rate = float(rate)
    new.seed = seed
    return new


def train_all(configs: list[ConfigDict], workdir: Path, data_dir: str | None):
    """Trains one population; several devices get equally many runs, by repeating the last."""
    alone = len(configs) == 1
    filled = configs + configs[-1:] * (0 if alone else -len(configs) % jax.device_count())
    return filled, train.run_population(filled, workdir, data_dir)[: len(configs)]


def best(config: ConfigDict, finals: list[dict[str, float]]) -> int:
    """Index of the smallest finite ``config.select``."""
    values = np.array([final.get(config.select, np.nan) for final in finals])
    if not np.isfinite(values).any():
        raise ValueError(f"no run has a finite {config.select!r}; there are {sorted(finals[0])}")
    return int(np.nanargmin(np.where(np.isfinite(values), values, np.nan)))


def pilot(config: ConfigDict, workdir: Path, data_dir: str | None) -> tuple[np.ndarray, float]:
    """Trains with linear decay at each learning rate; returns the best run's norms and rate."""
    configs = [
        variant(config, {"name": "linear"}, rate, config.pilot_seed)
        for rate in config.learning_rates
    ]
    for c in configs:
        c.optimizer.record_norms = config.norm
    configs, results = train_all(configs, workdir / "pilot", data_dir)
    job = training.job_of(configs[0], data_dir)
    state, _ = training.start(job, configs)
    store = checkpoints.Checkpoints(workdir / "pilot" / "checkpoints", keep=config.train.keep)
    restored = store.restore(state)
    store.close()
    if restored is None:
        raise ValueError(f"{workdir / 'pilot'} holds no checkpoint: remove it and start again")
    i = best(config, [r.final for r in results])
    return np.atleast_2d(optim.recorded_norms(restored[0]))[i], config.learning_rates[i]


def compare(config: ConfigDict, multipliers, workdir: Path, data_dir: str | None):
    """Trains each schedule at each learning rate with each seed; {schedule: (rate, finals)}."""
    table = {"name": "table", "multipliers": tuple(float(f"{m:.8g}") for m in multipliers)}
    schedules = {"refined": table, **{name: {"name": name} for name in config.compare}}
    chosen = {}
    for label, schedule in schedules.items():
        points = [(rate, seed) for rate in config.learning_rates for seed in config.seeds]
        configs = [variant(config, schedule, *point) for point in points]
        _, results = train_all(configs, workdir / label, data_dir)
        by_rate = {
            rate: [r.final for r, point in zip(results, points, strict=True) if point[0] == rate]
            for rate in config.learning_rates
        }
        means = [
            {config.select: float(np.mean([f[config.select] for f in finals]))}
            for finals in by_rate.values()
        ]
        rate = config.learning_rates[best(config, means)]
        chosen[label] = rate, by_rate[rate]
    return chosen


def report(config: ConfigDict, chosen, source: str, fit: tuple[float, float]) -> str:
    """Returns the table of the comparison."""
    train = config.train
    steps = f"{train.epochs:g} epochs" if train.steps is None else f"{train.steps} steps"
    lines = [
        f"# Refined schedule: {train.data.name}, {train.model.name}, {train.optimizer.name}",
        "",
        f"Norms: {source}. {steps}; {len(config.seeds)} seeds; the learning rate with the smallest "
        f"mean {config.select} of {', '.join(f'{r:g}' for r in config.learning_rates)}; "
        "mean ± std. `python -m experiments.refine`.",
        "",
    ]
    head = ("schedule", "learning rate", "valid loss", "test loss", "test accuracy, %")
    rows = []
    edges = min(config.learning_rates), max(config.learning_rates)
    columns = ("valid/loss", 1, 4), ("test/loss", 1, 4), ("test/accuracy", 100, 2)
    for label, (rate, finals) in chosen.items():
        cells = []
        for name, scale, digits in columns:
            values = [scale * f[name] for f in finals if np.isfinite(f.get(name, np.nan))]
            s = stats.summarize(values)
            cells.append(f"{s.mean:.{digits}f} ± {s.std:.{digits}f}" if values else "diverged")
        rows.append((label, f"{rate:g}{' (edge)' * (rate in edges)}", *cells))
    fraction, power = fit
    lines += [
        *markdown.table(head, rows, "lrrrr"),
        "",
        "Closed form near the refined schedule, for runs of any length: "
        f"`optim.warmup_polynomial_schedule(peak, steps, warmup_fraction={fraction:.3f}, "
        f"power={power:.2f})`.",
    ]
    return "\n".join(lines) + "\n"


def draw(norms, smoothed, multipliers, fit, path: Path, source: str) -> None:
    """Draws the norms and the schedule against linear and cosine decay."""
    figure, (left, right) = figures.figure(2, width=5, title=f"Refined schedule; norms: {source}")
    positive = np.where(np.isfinite(norms) & (norms > 0), norms, np.nan)
    left.plot(positive, lw=0.4, alpha=0.6, label="gradient norm")
    left.plot(np.linspace(0, len(norms) - 1, len(smoothed)), smoothed, label="smoothed")
    left.set(xlabel="step of the pilot", ylabel="gradient norm", yscale="log")
    steps = len(multipliers)
    t = jnp.arange(steps)
    right.plot(multipliers, label="refined")
    closed = optim.warmup_polynomial_schedule(1.0, steps, warmup_fraction=fit[0], power=fit[1])
    right.plot(closed(t), ":", lw=1, label=f"warm-up {fit[0]:.2f}, power {fit[1]:.2f}")
    for name in ("linear", "cosine"):
        right.plot(optim.sampled_schedule(name, 1.0, steps)(t), "--", lw=1, label=name)
    right.set(xlabel="step", ylabel="learning rate / peak")
    for axis in (left, right):
        axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2)
    figures.save(figure, path)


def _refine(config: ConfigDict, workdir: Path, data_dir: str | None) -> None:
    options = {"norm": config.norm, "tau": config.tau, "method": config.method}
    steps = training.job_of(config.train, data_dir).steps
    given = flags.FLAGS.norms
    if given is not None:
        norms, source = read_norms(given, flags.FLAGS.column), Path(given).name
    else:
        norms, rate = pilot(config, workdir, data_dir)
        source = f"{config.norm} of a pilot, linear decay from {rate:g}"
    multipliers = optim.refine(norms, num_steps=steps, **options)
    smoothed = optim.smooth_norms(norms[np.isfinite(norms)], config.tau)
    fit = optim.fit_warmup_polynomial(multipliers) if steps > 1 else (0.0, 1.0)
    np.save(workdir / "norms.npy", norms)
    np.save(workdir / "multipliers.npy", multipliers)
    draw(norms, smoothed, multipliers, fit, workdir / "refined.png", source)
    print(f"refined schedule and its picture: {workdir}/multipliers.npy, refined.png", flush=True)
    if flags.FLAGS.train:
        chosen = compare(config, multipliers, workdir, data_dir)
        text = report(config, chosen, source, fit)
        files.write(workdir / "table.md", text)
        print(text)


def main(config: ConfigDict, workdir: Path, data_dir: str | None) -> int:
    """Pilot, refinement, picture, retraining, comparison; a second start resumes."""
    with runs.claimed(workdir, [config], "refine"):
        _refine(config, workdir, data_dir)
    return 0


if __name__ == "__main__":
    flags.DEFINE_string(
        "norms", None, "Norms recorded elsewhere (csv, jsonl, npy, npz) instead of a pilot."
    )
    flags.DEFINE_string("column", None, "Column of --norms, where it has several.")
    flags.DEFINE_bool("train", True, "Retrain and compare; --notrain stops after the picture.")
    launch.launch(main, "configs/refine/digits.py", "norms")
