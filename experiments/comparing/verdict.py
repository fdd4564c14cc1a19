"""The page about one's own model: what to take, how sure that is, and what it costs."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common import figures, files
from experiments.common import markdown as md
from experiments.comparing import halving, methods
from experiments.tables import render, stats

__all__ = ["code", "finals", "markdown", "picture", "tests", "winner", "write"]

STEM = "verdict"
QUARTER = 0.25
EDGE = 0.1  # Share of a range, in logarithms, that is its edge.

Content = Mapping[str, Any]


def _of(content: Content, stage: Any, method: str | None = None) -> list[dict[str, Any]]:
    """The runs of a round or of the finals, and of one method if one is named."""
    runs = [r for r in content["runs"] if r["round"] == stage]
    return [r for r in runs if method in (None, r["method"])]


def finals(content: Content) -> dict[str, list[float]]:
    """Returns the metric of each finalist by seed, the best mean first; infinite if it diverged."""
    values: dict[str, list[float]] = {}
    for run in _of(content, halving.FINAL):
        value = math.inf if run["best"] is None or run["diverged"] else run["best"]
        values.setdefault(run["method"], []).append(value)
    return dict(sorted(values.items(), key=lambda pair: np.mean(pair[1])))


def tests(content: Content) -> dict[str, float]:
    """Returns Holm's p-value of each other finalist against the winner, paired by seed.

    It is NaN where the seed makes no difference to a run, so that nothing can be tested.
    """
    (_, best), *others = finals(content).items()

    def p_value(values):
        if not np.all(np.isfinite([values, best])):
            return 0.0
        fixed = np.ptp(values) == np.ptp(best) == 0
        return math.nan if fixed else stats.paired(values, best).p

    p = [p_value(values) for _, values in others]
    if any(map(math.isnan, p)):
        return dict.fromkeys((name for name, _ in others), math.nan)
    return dict(zip((name for name, _ in others), stats.holm(p), strict=True))


def winner(content: Content) -> dict[str, Any]:
    """Returns the run of the recommended arm with the first seed of the finals."""
    return _of(content, halving.FINAL, next(iter(finals(content))))[0]


def code(content: Content) -> str:
    """Returns the lines to paste."""
    best = winner(content)
    method = methods.Method(**content["methods"][best["method"]])
    steps = content["steps"][-1]
    return methods.code(method, best["setting"], best["schedule"], steps)


def _sensitivity(content: Content, name: str) -> tuple[int, int]:
    """How many settings of a method are in the best quarter of the first round, and of how many."""
    runs = _of(content, 1)
    best = sorted(math.inf if r["best"] is None else r["best"] for r in runs)
    limit = best[math.ceil(QUARTER * len(best)) - 1]
    own = [r["best"] for r in runs if r["method"] == name]
    return sum(v is not None and v <= limit for v in own), len(own)


def _edge(content: Content, run: dict[str, Any]) -> str:
    """At which end of its range the learning rate is; empty in between."""
    space = content["methods"][run["method"]]["space"]
    if "learning_rate" not in space:
        return ""
    low, high = space["learning_rate"]
    place = math.log(run["setting"]["learning_rate"] / low) / math.log(high / low)
    if min(place, 1 - place) >= EDGE:
        return ""
    return "lower" if place < 0.5 else "upper"


def markdown(content: Content) -> str:
    """Returns the page as Markdown."""
    values, p = finals(content), tests(content)
    best, steps = next(iter(values)), content["steps"][-1]
    chosen = winner(content)
    same = [name for name, x in p.items() if x >= render.LEVEL]
    summary = stats.summarize(values[best])
    lines = [f"# Which optimizer for {content['model']}?", ""]
    lines += [
        f"**{best}** with the {chosen['schedule']} schedule: {content['version']['metric']} "
        f"{summary.mean:.4g} ± {summary.std:.2g} over {summary.n} seeds.",
        "",
    ]
    if same:
        lines += [
            f"**No difference seen** between it and {', '.join(same)}: with {summary.n} seeds these"
            " cannot be told apart, so take the one that is cheaper or that you know.",
            "",
        ]
    lines += ["```python", "import optax", "import optim", "", code(content), "```", ""]
    if any(map(math.isnan, p.values())):
        lines += [
            "Runs do not depend on the seed, neither by `init(key)` nor by `batches(step, seed)`:"
            " whether these differences are more than chance cannot be told.",
            "",
        ]
    edge = _edge(content, chosen)
    if edge:
        text = f"Its learning rate is at the {edge} end of its range: further on may be better yet."
        lines += [text, ""]
    lines += ["## Finalists", ""]
    head = ["", content["version"]["metric"], "p", "schedule", "setting"]
    head += ["state bytes per parameter", "time per step"]
    base, table = content["clock"][best], []
    for name, numbers in values.items():
        run = _of(content, halving.FINAL, name)[0]
        s = stats.summarize(numbers)
        shown = f"{s.mean:.4g} ± {s.std:.2g}" if math.isfinite(s.mean) else "diverged"
        table.append(
            [
                name,
                shown,
                _p(p.get(name)),
                run["schedule"],
                _setting(run["setting"]),
                f"{content['state'][name]:.3g}",
                f"{content['clock'][name] / base:.2f}",
            ]
        )
    lines += [*md.table(head, table, "lrrllrr"), ""]
    lines += [
        f"Runs of {steps} steps, mean ± standard deviation over {summary.n} seeds that no round had"
        f" seen; p of a paired t-test against {best}, after Holm. Times in multiples of {best}'s,"
        f" which took {1000 * base:.3g} ms per step.",
        "",
        f"![Settings of the first round, and curves of the finalists]({STEM}.png)",
        "",
        "## All methods",
        "",
    ]
    table = []
    for name in content["methods"]:
        rounds = range(1, len(content["steps"]) + 1)
        last = max(k for k in rounds if _of(content, k, name))
        here = [r["best"] for r in _of(content, last, name) if r["best"] is not None]
        near, count = _sensitivity(content, name)
        lost = sum(r["diverged"] > 0 for r in _of(content, 1, name))
        table.append(
            [
                name,
                "final" if name in values else f"round {last}",
                f"{min(here):.4g}" if here else "–",
                content["steps"][last - 1],
                f"{near} of {count}",
                lost or "",
                f"{content['state'][name]:.3g}",
            ]
        )
    head = ["", "came to", "best there", "steps", "settings in the best quarter", "diverged"]
    lines += [*md.table([*head, "state bytes per parameter"], table, "llrrrrr"), ""]
    size = content["size"]
    lines += [
        "A round keeps the best third of its settings, and always the best of the three best"
        " methods. A method with many settings in the best quarter of the first round forgives a"
        " rate that is not tuned. Numbers of different rounds do not compare: their runs differ in"
        " length.",
        "",
        f"`{content['command']}`: {size['gradients']} gradients,"
        f" {sum(r['seconds'] for r in content['runs']) / 60:.1f} min of training on"
        f" {content['machine']}.",
        "",
    ]
    return "\n".join(lines)


def _p(p: float | None) -> str:
    if p is None or math.isnan(p):
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _setting(setting: Mapping[str, float]) -> str:
    return ", ".join(f"{k} {v:.3g}" for k, v in setting.items()) or "as it comes"


def picture(content: Content) -> bytes:
    """Draws the first round's metric over the learning rate, and the curves of the finalists."""
    looks = figures.looks(content["methods"])
    figure, (left, right) = figures.figure(2, width=5.2, height=3.8)
    shown = [r["best"] for r in _of(content, 1) if r["best"] is not None]
    for name, look in looks.items():
        own = [r for r in _of(content, 1, name) if r["best"] is not None]
        points = sorted((r["setting"].get("learning_rate", 1.0), r["best"]) for r in own)
        if points:
            x, y = zip(*points, strict=True)
            left.plot(x, y, color=look.color, marker=look.marker, linewidth=0.8, label=name)
    left.set_xscale("log")
    left.set_xlabel("learning rate")
    left.set_ylabel(f"{content['version']['metric']}, best of the run")
    left.set_title(f"settings of round 1, {content['steps'][0]} steps", fontsize=10)
    low, middle = min(shown), float(np.percentile(shown, 75))
    left.set_ylim(low - 0.05 * (middle - low), middle + 0.05 * (middle - low))
    ends = []
    for name in finals(content):
        own = _of(content, halving.FINAL, name)
        steps = [s for s, _ in own[0]["history"]]
        curves = np.array(
            [
                [np.nan if v is None else v for _, v in r["history"]]
                for r in own
                if not r["diverged"]
            ]
        )
        if not len(curves):
            continue
        look, mean = looks[name], curves.mean(0)
        right.plot(steps, mean, color=look.color, linestyle=look.linestyle)
        right.fill_between(steps, curves.min(0), curves.max(0), color=look.color, alpha=0.15)
        ends += [mean[len(mean) // 4], curves.min()]
    if ends:
        right.set_ylim(min(ends) - 0.05 * (max(ends) - min(ends)), max(ends))
    right.set_xlabel("steps")
    right.set_ylabel(content["version"]["metric"])
    right.set_title("finalists, mean and range over seeds", fontsize=10)
    figures.legend(figure, left)
    return figures.content(figure)


def write(content: Content, out_dir: Path) -> list[Path]:
    """Writes verdict.json, .md and .png; returns the paths."""
    texts: dict[Path, str | bytes] = {
        out_dir / f"{STEM}.json": render.json_text(content),
        out_dir / f"{STEM}.md": markdown(content),
        out_dir / f"{STEM}.png": picture(content),
    }
    files.write_all(texts)
    return list(texts)
