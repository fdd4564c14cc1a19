"""What a run leaves in its folder, and the skeleton that train, solve and prune share."""

import contextlib
import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

import optim
from experiments.common import checkpoints, files, launch

TIME_FIELDS = ("seconds", "examples_per_second")


class Result(NamedTuple):
    """What a run gives: its last numbers, and a line per log point as in metrics.jsonl."""

    final: dict[str, float]
    history: list[dict[str, Any]]


@contextlib.contextmanager
def claimed(
    workdir: Path | None, configs: Sequence[ConfigDict], main: str
) -> Iterator[list[Path | None]]:
    """Holds the folder of a run, or of the runs of a population, while they are made.

    Args:
      workdir: The folder; ``None`` holds nothing and leaves nothing.
      configs: One per run.
      main: The name of the main, ``train`` for ``experiments.train``.

    Yields:
      The folder of each run: ``workdir`` itself, or its ``run_0``, ``run_1``, ...

    Raises:
      ValueError: Another process holds the folder, or it is the folder of other runs, as in
        :func:`claim_all`.
    """
    if workdir is None:
        yield [None] * len(configs)
        return
    with files.locked(workdir) if jax.process_index() == 0 else contextlib.nullcontext():
        yield [*claim_all(workdir, configs, main)]


def folder_of(workdir: str | Path | None) -> Path | None:
    """Returns the folder that a user names; ``~`` is the home folder."""
    return None if workdir is None else Path(workdir).expanduser()


def claim_all(workdir: Path, configs: Sequence[ConfigDict], main: str) -> list[Path]:
    """Returns the folders of one run, or of the runs of a population, each claimed.

    Raises:
      ValueError: The folder holds another number of runs, checkpoints without a config.json, or as
        :func:`claim`; nothing is written.
    """
    many = len(configs)
    begun = any((workdir / name).exists() for name in ("checkpoints", "stages"))
    held = len(list(workdir.glob("run_*/config.json"))) or (workdir / "config.json").exists()
    if begun and not held:
        raise ValueError(
            f"{workdir} holds checkpoints, but no config.json that says of which run; "
            "put it back, choose another --workdir, or remove the folder"
        )
    # A kill may have left fewer claims, but no checkpoint then.
    if begun and not held:
        raise ValueError(
            f"{workdir} holds checkpoints and no config.json that says of what; choose another "
            "--workdir, or remove it"
        )
    if held > many or (begun and held != many):
        raise ValueError(
            f"{workdir} holds {held:d} runs (--seeds={held:d}), and this is --seeds={many}; "
            "choose another --workdir, or remove it"
        )
    folders = [workdir] if many == 1 else [workdir / f"run_{i}" for i in range(many)]
    for folder, config in zip(folders, configs, strict=True):
        claim(folder, config, main, begun)
    return folders


def claim(workdir: Path, config: ConfigDict, main: str, begun: bool = False) -> None:
    """Makes ``workdir`` the folder of a run of ``config``, by its config.json.

    Args:
      workdir: The folder.
      config: Of the run.
      main: The name of the main.
      begun: Whether there are checkpoints, so that a config.json must be there and whole.

    Raises:
      ValueError: The folder holds a run of another config or of another main; the message shows
        the difference. Or its config.json cannot be read, and there are checkpoints.
      OSError: The folder cannot be written.
    """
    file = workdir / "config.json"
    new = {"main": main, **json.loads(config.to_json_best_effort())}
    old = None
    if file.exists():
        with contextlib.suppress(ValueError, TypeError):  # Cut short by a kill, or foreign.
            old = {"main": main, **json.loads(file.read_text(encoding="utf-8"))}
    if old is None:
        if begun and file.exists():
            raise ValueError(
                f"{file} cannot be read, and there are checkpoints of the run it belongs to; "
                "put it back, choose another --workdir, or remove the folder"
            )
        if jax.process_index() == 0:
            files.write(file, json.dumps(new, indent=2, sort_keys=True) + "\n")
        return
    if old["main"] != main:
        raise ValueError(
            f"{workdir} holds a run of experiments.{old['main']}, not of {main}; "
            "choose another --workdir, or remove it"
        )
    if old != new:
        old, new = _flatten(old), _flatten(new)
        keys = sorted(k for k in old | new if old.get(k) != new.get(k))
        changes = "; ".join(f"{k}: {old.get(k)} there, {new.get(k)} now" for k in keys)
        raise ValueError(
            f"{workdir} holds a run of another config ({changes}); "
            "choose another --workdir, or remove it"
        )


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {k: v for name, x in tree.items() for k, v in _flatten(x, f"{prefix}{name}.").items()}


class Run:
    """One run, or a population of runs in one loop: where it starts, what it writes, when it stops.

    A main restores, loops with this object's methods as callbacks, and finishes::

      with Run(folders, folders[0] / "checkpoints", steps=1000) as run:
          state = run.restore(state)
          state = optim.loop.run(step, state, ..., start=run.start, on_metrics=run.log_mean,
                                 hooks=[(100, run.save)], stop=run.stop)
          run.finish(state)

    On leaving the block every line is written and every save is whole.

    Args:
      folders: Of each run; ``None`` for one that leaves nothing.
      saves: Folder of the checkpoints, or ``None``.
      steps: Number of the last step.
      log_every: Steps between two lines of :meth:`log_mean`.
      label: Stands before the progress line.
      shown: Names of the metrics in the progress line.
      per_step: What a step counts, such as ``{"examples": 64}``; each line has its sum.
      keep: How many checkpoints to keep.
      best: Metric whose best checkpoint is kept too.
      mode: ``"max"`` or ``"min"``: which value of ``best`` is better.
      quiet: No progress line.
      stop: ``stop(step)``, polled between device calls; once true the run saves and ends.
      bar: The progress line of a run in several parts, instead of one of its own.
      before: Steps of the parts before this one.

    Attributes:
      start: The step from which the run goes on, once it is restored.
      clock: Of this run.
      files: The :class:`MetricsFile` of each run.
    """

    def __init__(
        self,
        folders: Sequence[Path | None],
        saves: Path | None,
        *,
        steps: int,
        log_every: int = 1,
        label: str = "",
        shown: Sequence[str] = (),
        per_step: Mapping[str, float] | None = None,
        keep: int = 2,
        best: str | None = None,
        mode: str = "max",
        quiet: bool = False,
        stop: Callable[[int], bool] | None = None,
        bar: tqdm | None = None,
        before: int = 0,
    ):
        self._folders, self._steps, self._log_every = folders, steps, log_every
        self._shown, self._per_step, self._label = shown, per_step or {}, label
        self._best, self._stop, self._quiet, self._before = best, stop, quiet, before
        self._store = None
        if saves is not None:
            self._store = checkpoints.Checkpoints(saves, keep=keep, best=best, mode=mode)
        self._bar, self._own_bar = bar, bar is None
        self._told: int | None = None  # The step after which it was told to stop.
        self._latest: dict[str, float] = {}
        self.start, self.files, self.clock = 0, [], Clock([])

    def restore(self, state: Any, start: int = 0) -> Any:
        """Returns the state of the newest whole checkpoint, or ``state``, of step ``start``."""
        self.start = start
        if self._store is not None:
            state, self.start = self._store.restore(state) or (state, start)
        lead = jax.process_index() == 0
        if self.start >= self._steps and lead and self._own_bar and not self._quiet:
            print(f"already complete: {self._folders[0]}")
        for folder in self._folders:
            file = folder / "metrics.jsonl" if folder is not None and lead else None
            self.files.append(MetricsFile(file, self.start))
        self.clock = Clock(self.files[0].rows if self.files else [])
        if self._bar is None:
            self._bar = progress(self._steps, self.start, self._label, self._quiet)
        return state

    def log(self, step: int, values: Mapping[str, Any], **fields: Any) -> None:
        """Writes a line per run: ``values`` are numbers, or arrays with a number per run."""
        counts = {name: step * each for name, each in self._per_step.items()}
        fields = {**counts, "seconds": self.clock.read(), **fields}
        for r, file in enumerate(self.files):
            own = {k: float(v[r] if np.ndim(v) else v) for k, v in values.items()}
            file.write(step=step, **own, **fields)
        self._latest |= {k: float(np.mean(v)) for k, v in values.items()}
        shown = {k: f"{v:.4g}" for k, v in self._latest.items() if k in self._shown}
        if self._bar is not None:
            self._bar.set_postfix(shown, refresh=False)

    def log_mean(self, first: int, values: Mapping[str, np.ndarray]) -> None:
        """Writes a line at each log point: the mean of the last metrics, but the last ``lr``."""
        step = first + len(next(iter(values.values())))
        self.advance(step)
        if step % self._log_every == 0 or step == self._steps:
            means = {k: v[-1] if k == "lr" else v.mean(0) for k, v in values.items()}
            self.log(step, means, **self._speed(step))

    def _speed(self, step: int) -> dict[str, float]:
        if "examples" not in self._per_step:
            return {}
        rate = self.clock.rate(step) * self._per_step["examples"] * len(self.files)
        return {"examples_per_second": round(rate, 1)}

    def advance(self, step: int) -> None:
        """Moves the progress line to a step."""
        if self._bar is not None:
            self._bar.update(self._before + step - self._bar.n)

    def save(self, step: int, state: Any) -> None:
        """Saves the state after a step."""
        if self._store is not None:
            best = None if self._best is None else {self._best: self._latest.get(self._best, 0.0)}
            self._store.save(step, state, best)

    def stop(self, step: int) -> bool:
        """Whether the run was told to stop; it is asked between device calls."""
        if self._told is None and self._stop is not None and self._stop(self._before + step):
            self._told = step
        return self._told is not None

    def finish(self, state: Any) -> None:
        """Saves the state and raises ``launch.Preempted`` if the run was told to stop."""
        if self._told is not None:
            self.save(self._told, state)
            self._close_store()
            raise launch.Preempted(self._before + self._told)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._own_bar and self._bar is not None:
            self._bar.close()
        for file in self.files:
            file.close()
        if isinstance(error[1], optim.loop.NonFiniteError):
            for folder in self._folders:
                _leave(folder, {"stopped": str(error[1])})
        # With another process dead, to wait for a save would be to wait forever.
        if jax.process_count() == 1 or sys.exception() is None:
            self._close_store()

    def _close_store(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None


class MetricsFile:
    """``metrics.jsonl``: one JSON object per line, each with ``step``, written at once.

    Numbers that are not finite are written as strings, as JSON has none.

    Args:
      file: The path; ``None`` keeps the lines in memory only.
      start: Step to resume from: later lines of an earlier, killed run are removed.
    """

    def __init__(self, file: Path | None, start: int = 0):
        self.rows: list[dict[str, Any]] = []
        self._stream = None
        if file is None:
            return
        if file.exists():
            self._read(file, start)
        text = "".join(json.dumps(row) + "\n" for row in self.rows)
        files.write(file, text)
        self._stream = file.open("a", encoding="utf-8")

    def _read(self, file: Path, start: int) -> None:
        *lines, torn = file.read_text(encoding="utf-8", errors="replace").split("\n")
        foreign = []
        for line in lines + [torn] * torn.endswith("}"):  # A kill cuts the last line short.
            try:
                row = json.loads(line)
                step = row["step"]
                if isinstance(step, bool) or not isinstance(step, int):
                    raise TypeError
            except (ValueError, TypeError, KeyError):
                foreign += [line] if line.strip() else []
                continue
            if step <= start and start > 0:
                self.rows.append({k: v if _finite(v) else str(v) for k, v in row.items()})
        if foreign:
            aside = file.with_name("metrics-aside.txt")
            with aside.open("a", encoding="utf-8") as stream:
                stream.writelines(f"{line}\n" for line in foreign)
            warnings.warn(
                f"{file} held {len(foreign)} lines that are no metrics; moved to {aside.name}",
                stacklevel=2,
            )

    def write(self, **row: Any) -> None:
        """Adds a line."""
        row = {k: v if _finite(v) else str(v) for k, v in row.items()}
        self.rows.append(row)
        if self._stream is not None:
            with files.naming(Path(self._stream.name)):
                self._stream.write(json.dumps(row) + "\n")
                self._stream.flush()

    def close(self) -> None:
        """Closes the file."""
        if self._stream is not None:
            self._stream.close()


def _finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


class Clock:
    """Seconds of a run, earlier parts of a resumed one included.

    Args:
      rows: Lines of the earlier parts.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]]):
        before = max((row.get("seconds", 0.0) for row in rows), default=0.0)
        self._start = time.perf_counter() - before
        self._held: float | None = None
        self._last = (time.perf_counter(), rows[-1]["step"] if rows else 0)

    def read(self) -> float:
        """Returns the seconds until now."""
        now = time.perf_counter() if self._held is None else self._held
        return round(now - self._start, 4)

    def rate(self, step: int) -> float:
        """Returns the steps per second since the last call."""
        now, (before, earlier) = time.perf_counter(), self._last
        self._last = (now, step)
        return (step - earlier) / max(now - before, 1e-9)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stands still during a block, such as compilation or evaluation."""
        self._held = time.perf_counter()
        try:
            yield
        finally:
            self._start += time.perf_counter() - self._held
            self._held = None


def leave_result(folder: Path | None, finals: Sequence[Mapping[str, float]]) -> None:
    """Writes result.json: the last numbers of one run, or mean and std over several.

    The standard deviation is that of a sample, ``n - 1`` below. A number that is not finite is
    written as a string, as JSON has none.

    Args:
      folder: ``None`` writes nothing.
      finals: The last numbers of each run.
    """
    content: dict[str, Any] = {"final": _jsonable(finals[0])}
    if len(finals) > 1:
        values = {k: np.array([f[k] for f in finals], float) for k in finals[0]}
        content = {
            "runs": len(finals),
            "mean": _jsonable({k: v.mean() for k, v in values.items()}),
            "std": _jsonable({k: v.std(ddof=1) for k, v in values.items()}),
            "finals": [_jsonable(f) for f in finals],
        }
    _leave(folder, content)


def _leave(folder: Path | None, content: Mapping[str, Any]) -> None:
    if folder is not None and jax.process_index() == 0:
        files.write(folder / "result.json", json.dumps(content, indent=2) + "\n")


def _jsonable(numbers: Mapping[str, Any]) -> dict[str, Any]:
    plain = {k: float(v) if isinstance(v, np.generic) else v for k, v in numbers.items()}
    return {k: v if _finite(v) else str(v) for k, v in plain.items()}


def progress(steps: int, start: int, label: str, quiet: bool) -> tqdm:
    """Returns the progress line: steps, time left, steps per second and the last metrics."""
    calm = 0.2 if sys.stderr.isatty() else 10.0  # A log file gets a line every ten seconds.
    return tqdm(
        total=steps,
        initial=start,
        desc=label,
        unit="step",
        mininterval=calm,
        dynamic_ncols=True,
        disable=quiet or jax.process_index() != 0,
    )
