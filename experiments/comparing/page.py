"""The page of a comparison: scores with intervals, times, costs, picture. All from its JSON."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common import figures, files
from experiments.common import markdown as md
from experiments.comparing import methods, scoring, sections, workloads
from experiments.tables import definition, render, stats
from experiments.tables.execution import Records

__all__ = ["markdown", "picture", "read", "results", "times", "write"]

STEM = "compare"
LIGHT, SLOW = 0.6, 1.5  # State and time of a step over the baseline's, worth a word.
Results = Mapping[str, Any]


def results(
    compared: Sequence[methods.Method],
    names: Sequence[str],
    runs: Sequence[definition.Run],
    records: Records,
    changed: tuple[Sequence[definition.Run], Records],
    targets: Mapping[str, Any],
    **also: Any,
) -> dict[str, Any]:
    """Returns the content of the JSON file.

    Args:
      compared: The methods, the baseline of speed-ups first.
      names: Workloads.
      runs: The plan.
      records: Of all runs.
      changed: The runs of the variants and their records.
      targets: From :func:`targets.read`.
      **also: ``clock``, ``oracles``, ``state``, ``prediction`` and ``command``.
    """
    environments: list[Any] = []

    def entry(run: definition.Run, record: Mapping[str, Any]) -> dict[str, Any]:
        environment = {k: record[k] for k in ("machine", "versions", "source")}
        if environment not in environments:
            environments.append(environment)
        return {
            "method": run.row,
            "workload": run.column,
            "study": run.point["study"],
            "trial": run.point["trial"],
            "setting": {k: v for k, v in run.point.items() if k not in ("study", "trial")},
            "seed": run.seed,
            "steps": run.config.steps,
            "digest": run.digest,
            "status": record["status"],
            "seconds": round(record["seconds"], 3),
            "final": record["final"],
            "history": [[h["step"], h["valid"]] for h in record["history"]],
            "environment": environments.index(environment),
        }

    variants = {
        variant: {
            "of": name,
            "about": workloads.about(variant),
            "runs": [entry(r, changed[1][r.digest]) for r in changed[0] if r.column == variant],
        }
        for name, variant in workloads.VARIANTS.items()
        if name in names
    }
    content = {
        "methods": {m.name: {**m._asdict(), "self_tuning": m.self_tuning} for m in compared},
        "workloads": {name: workloads.about(name) for name in names},
        "targets": {name: targets[name] for name in names},
        **also,
        "runs": [entry(run, records[run.digest]) for run in runs],
        "variants": variants,
        "environments": environments,
    }
    return json.loads(render.json_text(content))


def read(out_dir: Path) -> dict[str, Any]:
    """Returns the JSON of a page.

    Raises:
      ValueError: There is none, or it is no JSON.
    """
    path = out_dir / f"{STEM}.json"
    if not path.exists():
        raise ValueError(f"there is no {path}: run the comparison first, or set --out_dir")
    return files.read_json(path)


def write(content: Results, out_dir: Path) -> list[Path]:
    """Writes compare.json, .md and .png; returns the paths."""
    texts: dict[Path, str | bytes] = {
        out_dir / f"{STEM}.json": render.json_text(content),
        out_dir / f"{STEM}.md": markdown(content),
        out_dir / f"{STEM}.png": picture(content),
    }
    files.write_all(texts)
    return list(texts)


def times(content: Results, clock: bool = False) -> np.ndarray:
    """Returns when each trial first met its target, in steps or in seconds.

    Args:
      content: Of the JSON file.
      clock: Multiply the steps by the seconds of a step, as measured in turns.

    Returns:
      Shape (methods, workloads, studies, trials); infinite for a miss, and for the trials that a
      method without tuning does not have.
    """
    rows, columns = list(content["methods"]), list(content["workloads"])
    studies = 1 + max(r["study"] for r in content["runs"])
    trials = 1 + max(r["trial"] for r in content["runs"])
    found = np.full((len(rows), len(columns), studies, trials), np.inf)
    for r in content["runs"]:
        target = content["targets"][r["workload"]]["target"]
        met = [s for s, value in r["history"] if value is not None and value <= target]
        if met:
            unit = content["clock"][r["workload"]][r["method"]] if clock else 1.0
            place = rows.index(r["method"]), columns.index(r["workload"])
            found[(*place, r["study"], r["trial"])] = met[0] * unit
    return found


def _scores(data: np.ndarray) -> np.ndarray:
    return scoring.score(scoring.of_workloads(data))


def markdown(content: Results) -> str:
    """Returns the page as Markdown."""
    rows, columns = list(content["methods"]), list(content["workloads"])
    in_steps, in_seconds = times(content), times(content, clock=True)
    at = scoring.of_workloads(in_steps)
    score, by_clock = _scores(in_steps), _scores(in_seconds)
    low, high = stats.bootstrap(in_steps, _scores, axes=(1, 2), samples=1000)
    faster = scoring.speed_up(at, 0)
    test = stats.friedman(at.T) if len(columns) > 1 and len(rows) > 2 else None
    order = np.argsort(-score, kind="stable")
    lines = ["# Optimizers on small workloads, time to target", ""]
    lines += [_protocol(content, in_steps.shape), "", _verdict(rows, columns, at, test, order), ""]
    head = ["", "score", "95 % interval", "score by the clock", "targets reached"]
    head += [f"speed-up over {rows[0]}", "mean rank", "state bytes per parameter", "time per step"]
    table = []
    for m in order:
        gain, shared = faster[m]
        clock = [content["clock"][c][rows[m]] / content["clock"][c][rows[0]] for c in columns]
        state = [content["state"][c][rows[m]] for c in columns]
        table.append(
            [
                rows[m],
                f"{score[m]:.3f}",
                f"[{low[m]:.2f}, {high[m]:.2f}]",
                f"{by_clock[m]:.3f}",
                f"{np.isfinite(at[m]).sum()} of {len(columns)}",
                "–" if math.isnan(gain) else f"{gain:.2f} ({shared})",
                "–" if test is None else f"{test.ranks[m]:.2f}",
                f"{np.median(state):.3g}",
                f"{np.median(clock):.2f}",
            ]
        )
    lines += [*md.table(head, table, "l" + "r" * 8), ""]
    lines += [
        "Score: share of workloads solved within a time, averaged over times from the fastest"
        " method's to four times that. By the clock: steps times the time of a step, which is"
        f" measured in turns and stands beside as a multiple of {rows[0]}'s. Every method here"
        " takes one gradient per step, so that a score by oracle calls is that by steps. Speed-up:"
        " geometric mean over the workloads that both reach, whose number is in brackets."
        " Scores depend on who competes; the steps below do not.",
        "",
        f"![Performance profiles and curves]({STEM}.png)",
        "",
        "## Steps to the target",
        "",
    ]
    table = [[rows[m], *(_steps(at[m, w], at[:, w]) for w in range(len(columns)))] for m in order]
    lines += [*md.table(["", *columns], table, "l" + "r" * len(columns)), ""]
    lines += [
        "Median over studies of the fastest trial; – is a miss in at least half of the studies.",
        "",
        "## How often a setting reaches the target",
        "",
    ]
    share = _shares(content, in_steps)
    table = [[rows[m], *(f"{100 * x:.0f} %" for x in share[m])] for m in order]
    lines += [*md.table(["", *columns], table, "l" + "r" * len(columns)), ""]
    lines += [*sections.best_values(content, order), ""]
    lines += sections.on_variants(content, order)
    lines += [*_for_whom(content, at, share.mean(1), test, order), ""]
    lines += _against_published(content["prediction"], dict(zip(rows, score, strict=True)))
    lines += ["## Targets", ""]
    table = [
        [
            name,
            content["workloads"][name],
            t["metric"],
            f"{t['target']:.4g}",
            f"{t['baseline']}, {t['points']} settings, {t['seeds']} seeds",
            t["version"]["steps"],
        ]
        for name, t in content["targets"].items()
    ]
    head = ["workload", "", "metric", "target", "set by", "in steps"]
    lines += [
        *md.table(head, table, "lllrlr"),
        "",
        *sections.oracles(content),
        _made_by(content),
        "",
    ]
    return "\n".join(lines)


def _protocol(content, shape) -> str:
    _, _, studies, trials = shape
    alone = [name for name, m in content["methods"].items() if m["self_tuning"]]
    text = (
        f"Each method is tuned anew in {studies} {'studies' if studies > 1 else 'study'} of"
        f" {trials} settings of its space, the same on all workloads; seeds, batches and evaluation"
        " steps are the same for all. 5 % of the steps are warm-up, then the rate falls along a"
        " cosine, unless the schedule belongs to the method. A run has 4/3 of the steps in which"
        " the baselines set the target."
    )
    if alone:
        text += (
            f" {', '.join(alone)} {'claim' if len(alone) > 1 else 'claims'} to need no tuning: one"
            " trial in each study, and half as many steps more."
        )
    return text


def _verdict(rows, columns, at, test, order) -> str:
    """What can be said, and what cannot."""
    if test is None:
        return "Too few methods or workloads for a test: no difference can be told from chance."
    p = "< 0.001" if test.p < 0.001 else f"{test.p:.3f}"
    text = f"Friedman's test over {len(columns)} workloads: p {p}."
    if test.p >= render.LEVEL:
        return f"{text} **No difference seen** between these methods as a whole."
    best = int(np.argmin(test.ranks))
    near = test.ranks[best] + test.critical_difference
    worse = [rows[m] for m in order if test.ranks[m] > near]
    text += (
        f" {rows[best]} has the best mean rank, {test.ranks[best]:.2f}. Ranks more than"
        f" {test.critical_difference:.2f} apart differ at the 5 % level:"
    )
    return f"{text} {', '.join(worse) or 'none'} {'are' if len(worse) > 1 else 'is'} worse."


def _steps(own: float, all_of_them: np.ndarray) -> str:
    if not math.isfinite(own):
        return "–"
    return f"**{own:.0f}**" if own == all_of_them.min() else f"{own:.0f}"


def _shares(content, in_steps) -> np.ndarray:
    """The share of the settings that reach the target, by method and workload."""
    rows, columns = list(content["methods"]), list(content["workloads"])
    made = np.zeros(in_steps.shape, bool)
    for r in content["runs"]:
        place = rows.index(r["method"]), columns.index(r["workload"])
        made[(*place, r["study"], r["trial"])] = True
    return np.isfinite(in_steps).sum((2, 3)) / np.maximum(made.sum((2, 3)), 1)


def _for_whom(content, at, share, test, order) -> list[str]:
    """What speaks for each method and what against it, by fixed rules from the tables above."""
    rows, columns = list(content["methods"]), list(content["workloads"])
    state = np.median([[content["state"][c][m] for c in columns] for m in rows], 1)
    clock = np.median(
        [[content["clock"][c][m] / content["clock"][c][rows[0]] for c in columns] for m in rows], 1
    )
    tuned = np.array([not content["methods"][m]["self_tuning"] for m in rows])
    largest = -np.sort(-share[tuned])
    forgiving, half = (largest[:3][-1], largest[0] / 2) if tuned.any() else (0.0, 0.0)
    behind = np.zeros(len(rows), bool)
    if test is not None and test.p < render.LEVEL:
        behind = np.array(test.ranks) > min(test.ranks) + test.critical_difference
    table = []
    for m in order:
        fastest = [
            c for w, c in enumerate(columns) if np.isfinite(at[m, w]) and at[m, w] == at[:, w].min()
        ]
        missed = [c for w, c in enumerate(columns) if not np.isfinite(at[m, w])]
        takes, minds = [], []
        if behind.any():
            (minds if behind[m] else takes).append(
                "ranks behind the best" if behind[m] else "not told apart from the best rank"
            )
        if fastest:
            takes.append(f"first on {', '.join(fastest)}")
        if not tuned[m]:
            takes.append("nothing is tuned")
        elif share[m] >= max(forgiving, half):
            takes.append(f"forgives its setting: {100 * share[m]:.0f} % of all reach a target")
        if state[m] <= LIGHT * state[0]:
            takes.append(f"holds {state[m]:.3g} bytes per parameter, {rows[0]} {state[0]:.3g}")
        if tuned[m] and share[m] < half:
            few = f"only {100 * share[m]:.0f} %" if share[m] else "none"
            minds.append(f"{few} of its settings {'reach' if share[m] else 'reaches'} a target")
        if 2 * len(missed) > len(columns):
            minds.append(f"reaches {len(columns) - len(missed)} of {len(columns)} targets")
        elif missed:
            minds.append(f"misses {', '.join(missed)}")
        if clock[m] >= SLOW:
            minds.append(f"a step takes {clock[m]:.2f} of {rows[0]}'s")
        table.append([rows[m], "; ".join(takes) or "–", "; ".join(minds) or "–"])
    return [
        "## For whom each is",
        "",
        *md.table(["", "for it", "against it"], table, "lll"),
        "",
        "By fixed rules from the tables above. Forgiving are the three methods of which the largest"
        " shares of settings reach the targets; less than half of the largest share is held against"
        f" a method that is tuned, as is a step of {SLOW} times {rows[0]}'s; state counts as small"
        f" up to {100 * LIGHT:.0f} % of {rows[0]}'s. These are small problems: what differs in"
        " memory, in the time of a step or by a missed target carries further than an order.",
    ]


def _against_published(prediction, scores) -> list[str]:
    """Rankings that others published, and what was predicted of them before any run here."""
    lines = []
    for ranking in prediction["rankings"]:
        rho, p, many = scoring.agreement(scores, ranking["places"])
        if math.isnan(rho):
            continue
        low, high = ranking["spearman"]
        held = "as predicted" if low <= rho <= high else "not as predicted"
        lines.append(
            f"- {ranking['name']} ({ranking['source']}): Spearman's correlation {rho:.2f} over"
            f" {many} methods, p {p:.2f}; {held} ({low} to {high})."
        )
    if not lines:
        return []
    head = f"Written down on {prediction['written']}: {prediction['reasons']}"
    return ["## Against published rankings", "", head, "", *lines, ""]


def _made_by(content) -> str:
    kinds = {
        f"{e['machine']} ({', '.join(f'{k} {v}' for k, v in sorted(e['versions'].items()))})"
        for e in content["environments"]
    }
    diverged = sum(r["final"].get("diverged", 1) > 0 for r in content["runs"])
    return (
        f"`{content['command']}`, {len(content['runs'])} runs, {diverged} of which diverged, on"
        f" {'; '.join(sorted(kinds))}. Every run's evaluations are in the JSON file beside this"
        " one."
    )


def picture(content: Results) -> bytes:
    """Draws the profiles, and for each workload the run that counts of each method."""
    rows, columns = list(content["methods"]), list(content["workloads"])
    in_steps = times(content)
    at, looks = scoring.of_workloads(in_steps), figures.looks(rows)
    wide = min(4, len(columns) + 1)
    figure, axes = figures.figure(wide, -(-(len(columns) + 1) // wide), width=3.6, height=3.0)
    taus = np.linspace(1, scoring.LARGEST, 200)
    for name, line in zip(rows, 100 * scoring.profile(at, taus), strict=True):
        look = looks[name]
        axes[0].plot(taus, line, color=look.color, linestyle=look.linestyle, label=name)
    axes[0].set_xlabel("time over the fastest method's")
    axes[0].set_ylabel("workloads solved (%)")
    axes[0].set_ylim(-3, 103)
    axes[0].set_title("performance profiles", fontsize=10)
    for axis, column in zip(axes[1:], columns, strict=False):
        _curves(axis, content, column, looks)
    for axis in axes[len(columns) + 1 :]:
        axis.set_axis_off()
    figures.legend(figure, axes[0])
    return figures.content(figure)


def _curves(axis, content, column, looks) -> None:
    """Of each method the run that decides its time: the fastest trial of the middle study."""
    target = content["targets"][column]["target"]
    lowest, ends = target, []
    for name, look in looks.items():
        runs = [r for r in content["runs"] if (r["method"], r["workload"]) == (name, column)]
        ranked = sorted(_fastest(runs, target), key=lambda pair: pair[0])
        _, run = ranked[(len(ranked) - 1) // 2]
        x = [s for s, v in run["history"] if v is not None]
        y = [v for _, v in run["history"] if v is not None]
        if not y:
            continue
        axis.plot(x, y, color=look.color, linestyle=look.linestyle, linewidth=1.2)
        lowest, ends = min(lowest, *y), [*ends, y[-1], y[len(y) // 4]]
    axis.axhline(target, color="black", linewidth=0.8, linestyle=":")
    top = float(np.median(ends)) if ends else 2 * target
    top = max(top, target + 0.5 * abs(target))
    axis.set_ylim(lowest - 0.05 * (top - lowest), top)
    axis.set_xlabel("steps")
    axis.set_ylabel(content["targets"][column]["metric"])
    axis.set_title(f"{column} (dotted: target)", fontsize=10)


def _fastest(runs, target) -> list[tuple[tuple[float, float], dict[str, Any]]]:
    """Of each study the trial that met the target first, or else came nearest."""
    found = {}
    for run in runs:
        met = [s for s, v in run["history"] if v is not None and v <= target]
        best = run["final"].get("best")
        rank = (met[0] if met else math.inf, math.inf if best is None else best)
        if run["study"] not in found or rank < found[run["study"]][0]:
            found[run["study"]] = rank, run
    return list(found.values())
