"""From the JSON of a table to its statistics, Markdown, CSV and picture. Nothing is run."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.common import files
from experiments.tables import cache, stats

__all__ = ["Cell", "cells", "chosen_point", "csv_text", "json_text", "markdown", "path", "write"]

Results = Mapping[str, Any]


class Cell(NamedTuple):
    """What a table says about one method in one setting."""

    row: str
    column: str
    chosen: dict[str, Any]
    edge: dict[str, str]
    trials: int
    values: dict[int, float]  # By seed, of the chosen hyperparameters.
    summary: stats.Summary
    difference: stats.Paired | None  # To the baseline; None for the baseline itself.
    also: dict[str, stats.Summary]
    diverged: int  # Of all runs of the cell, tuning included.
    failed: int
    runs: int


def cells(results: Results) -> list[Cell]:
    """Chooses hyperparameters and computes the statistics of every cell, in the table's order."""
    table = results["table"]
    found: dict[tuple[str, str], Cell] = {}
    baseline_first = sorted(table["rows"], key=lambda row: row != table["baseline"])
    for row in baseline_first:
        for column in table["columns"]:
            runs = [r for r in results["runs"] if (r["row"], r["column"]) == (row, column)]
            found[row, column] = _cell(
                table, row, column, runs, found.get((table["baseline"], column))
            )
    return [found[row, column] for row in table["rows"] for column in table["columns"]]


def chosen_point(table: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The hyperparameters of a cell: best mean of ``select`` over the tuning seeds."""
    tuning = table["tune_seeds"] or table["seeds"]
    points = _points(runs)
    trials = [
        [_number(r, table["select"]) for r in runs if r["point"] == p and r["seed"] in tuning]
        for p in points
    ]
    return points[stats.choose(trials, table["direction"]).index]


def _cell(table, row, column, runs, baseline) -> Cell:
    points = _points(runs)
    chosen = chosen_point(table, runs)
    reported = [r for r in runs if r["point"] == chosen and r["seed"] in table["seeds"]]
    values = {r["seed"]: _number(r, table["metric"]) for r in reported}
    values = {seed: v for seed, v in sorted(values.items()) if v is not None}
    difference = None
    if baseline is not None:
        both = [s for s in values if s in baseline.values]
        difference = stats.paired([values[s] for s in both], [baseline.values[s] for s in both])
    also = {}
    for heading, name in table["also"].items():
        numbers = [_number(r, name) for r in reported]
        also[heading] = stats.summarize([v for v in numbers if v is not None])
    status = [r["status"] for r in runs]
    return Cell(
        row=row,
        column=column,
        chosen=chosen,
        edge=stats.at_edge(chosen, points),
        trials=len(points),
        values=values,
        summary=stats.summarize(list(values.values())),
        difference=difference,
        also=also,
        diverged=status.count("diverged"),
        failed=status.count("failed"),
        runs=len(runs),
    )


def _points(runs) -> list[dict[str, Any]]:
    points: list[dict[str, Any]] = []
    for r in runs:
        if r["point"] not in points:
            points.append(r["point"])
    return points


def _number(run: Mapping[str, Any], name: str) -> float | None:
    """A metric of a finished run; ``None`` for one that diverged or failed."""
    if run["status"] != "done":
        return None
    if name == "seconds" and name not in run["final"]:
        return run["seconds"]
    if name not in run["final"]:
        raise ValueError(f"runs report no {name!r}; there are: {', '.join(sorted(run['final']))}")
    return run["final"][name]


def markdown(results: Results) -> str:
    """The table as Markdown."""
    table, all_cells = results["table"], cells(results)
    by_place = {(c.row, c.column): c for c in all_cells}
    columns, also = list(table["columns"]), list(table["also"])
    lines = [f"# {table['title']}", "", table["protocol"], "", _reading(table, all_cells), ""]
    head = [c or _plain_name(table["metric"]) for c in columns]
    head += [f"{c}: {a}" if len(columns) > 1 else a for c in columns for a in also]
    rows = []
    best = {c: _best(table, [by_place[r, c] for r in table["rows"]]) for c in columns}
    for row in table["rows"]:
        line = [row]
        for column in columns:
            cell = by_place[row, column]
            text = _mean_std(table, cell.summary) + _marks(cell)
            paper = table["paper"].get(row, {}).get(column)
            text = f"**{text}**" if row in best[column] else text
            line.append(text if paper is None else f"{text} (paper {paper})")
        line += [_compact(by_place[row, c].also[a]) for c in columns for a in also]
        rows.append(line)
    lines += [*_grid(["", *head], rows), ""]
    legend = []
    if any(c.edge for c in all_cells):
        legend.append("† the best hyperparameter lies at the edge of the grid.")
    if any(c.diverged or c.failed for c in all_cells):
        legend.append("‡ runs of this cell diverged or failed, tuning included; see below.")
    if legend:
        lines += [" ".join(legend), ""]
    if table["source"]:
        lines += [f"Paper: {table['source']}", ""]
    lines += [f"- {note}" for note in table["notes"]] + [""] * bool(table["notes"])
    if table["plots"]:
        picture = path(table["name"], table["scale"], Path()).with_suffix(".png").name
        lines += [f"![{table['title']}]({picture})", ""]
    lines += ["## Details", "", *_details(table, all_cells), "", _made_by(results), ""]
    return "\n".join(lines)


def _reading(table, all_cells) -> str:
    better = "higher" if table["direction"] == "max" else "lower"
    text = (
        f"`{table['metric']}`{' in %' if table['unit'] == '%' else ''}, {better} is better: mean ±"
        f" standard deviation over {len(table['seeds'])} seeds; best mean in bold."
    )
    trials = all_cells[0].trials
    if trials > 1:
        tuning = table["tune_seeds"]
        which = f"seeds {_ranges(tuning)}" if tuning else "the same seeds"
        text += (
            f" Hyperparameters: the best of {trials} settings for each cell by the mean of"
            f" `{table['select']}` over {which}."
        )
        if table["select"] == table["metric"]:
            text += " This is the reported number itself: there is no separate test set."
    return text


def _details(table, all_cells) -> list[str]:
    settings = len(table["columns"]) > 1
    head = ["", *(["setting"] * settings), "chosen", "runs", "mean", "std", "95 % interval"]
    head += [f"difference to {table['baseline']} [95 %]", "p", "diverged", "failed"]
    rows = []
    for c in all_cells:
        chosen = ", ".join(
            f"{k.rsplit('.', 1)[-1]} {_short(v)}" + (f" ({c.edge[k]})" if k in c.edge else "")
            for k, v in c.chosen.items()
        )
        d = c.difference
        rows.append(
            [
                c.row,
                *([c.column] * settings),
                chosen or "–",
                f"{c.summary.n} of {len(table['seeds'])}",
                _number_text(table, c.summary.mean),
                _number_text(table, c.summary.std),
                _interval(table, c.summary.low, c.summary.high),
                "–"
                if d is None or not d.n
                else f"{_number_text(table, d.mean, '+')} {_interval(table, d.low, d.high)}",
                "–" if d is None or math.isnan(d.p) else _p_text(d.p),
                f"{c.diverged} of {c.runs}",
                f"{c.failed} of {c.runs}",
            ]
        )
    return _grid(head, rows)


def _made_by(results) -> str:
    kinds = {
        f"{e['machine']} ({', '.join(f'{k} {v}' for k, v in sorted(e['versions'].items()))})"
        for e in results["environments"]
    }
    table = results["table"]
    return (
        f"`{results['command']}`, {len(results['runs'])} runs, seeds {_ranges(table['seeds'])},"
        f" on {'; '.join(sorted(kinds))}. p: two-sided paired t-test over seeds, not corrected for"
        " the number of comparisons. Every run's numbers are in the JSON file beside this one."
    )


def csv_text(results: Results) -> str:
    """One line for each cell, in full precision."""
    table, out = results["table"], io.StringIO()
    head = "row column metric n mean std low high difference difference_low difference_high p"
    keys = sorted({k for row in cells(results) for k in row.chosen})
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*head.split(), "diverged", "failed", "runs", "paper", *keys, *table["also"]])
    for c in cells(results):
        d = c.difference or stats.Paired(0, *[math.nan] * 4)
        numbers = [c.summary.n, *c.summary[1:], *d[1:]]
        line = [c.row, c.column, table["metric"], *("" if v != v else v for v in numbers)]
        line += [c.diverged, c.failed, c.runs, table["paper"].get(c.row, {}).get(c.column, "")]
        line += [c.chosen.get(k, "") for k in keys] + [a.mean for a in c.also.values()]
        writer.writerow(line)
    return out.getvalue()


def path(name: str, scale: str, folder: Path) -> Path:
    """The JSON file of a table; the others lie beside it."""
    return folder / f"{name}{'' if scale == 'cpu' else f'-{scale}'}.json"


def write(results: Results, folder: Path) -> list[Path]:
    """Writes NAME.json, .md, .csv and .png (with ``plots``); returns the paths."""
    from experiments.tables import pictures

    stem = path(results["table"]["name"], results["table"]["scale"], folder).with_suffix("")
    texts = {".json": json_text(results), ".md": markdown(results), ".csv": csv_text(results)}
    paths = []
    for suffix, content in texts.items():
        paths.append(stem.with_suffix(suffix))
        files.write(paths[-1], content)
    if results["table"]["plots"]:
        paths.append(stem.with_suffix(".png"))
        files.write(paths[-1], pictures.png(results))
    return paths


def json_text(results: Results) -> str:
    """Standard JSON, one run a line; numbers that are not finite become null."""

    def finite(x):
        if isinstance(x, dict):
            return {k: finite(v) for k, v in x.items()}
        if isinstance(x, list):
            return [finite(v) for v in x]
        return None if isinstance(x, float) and not math.isfinite(x) else x

    plain = finite(cache.plain(results))
    runs = ",\n  ".join(json.dumps(r, allow_nan=False) for r in plain["runs"])
    rest = json.dumps({k: v for k, v in plain.items() if k != "runs"}, indent=1, allow_nan=False)
    return f'{rest[:-2]},\n "runs": [\n  {runs}\n ]\n}}\n'


def _best(table, column_cells) -> set[str]:
    known = [c for c in column_cells if c.summary.n]
    if len(known) < 2:
        return set()
    pick = max if table["direction"] == "max" else min
    best = pick(c.summary.mean for c in known)
    return {c.row for c in known if c.summary.mean == best}


def _marks(cell) -> str:
    marks = [" †"] * bool(cell.edge) + [" ‡"] * bool(cell.diverged or cell.failed)
    return "".join(marks)


def _grid(head, rows) -> list[str]:
    bars = [f"| {' | '.join(line)} |" for line in [head, *rows]]
    return [bars[0], "|" + "---|" * len(head), *bars[1:]]


def _number_text(table, value, sign="") -> str:
    if math.isnan(value):
        return "–"
    scale = 100 if table["unit"] == "%" else 1
    return f"{value * scale:{sign}.{table['digits']}f}"


def _mean_std(table, summary) -> str:
    if not summary.n:
        return "no run finished"
    mean, std = _number_text(table, summary.mean), _number_text(table, summary.std)
    return mean if std == "–" else f"{mean} ± {std}"


def _interval(table, low, high) -> str:
    if math.isnan(low):
        return "–"
    return f"[{_number_text(table, low)}, {_number_text(table, high)}]"


def _compact(summary) -> str:
    if not summary.n:
        return "–"
    spread = summary.std if summary.n > 1 else 0.0
    mean = f"{summary.mean:.0f}" if summary.mean >= 1e4 else f"{summary.mean:.4g}"
    return mean + (f" ± {spread:.2g}" if spread else "")


def _p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _short(value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _plain_name(metric: str) -> str:
    return metric.replace("/", " ").replace("_", " ")


def _ranges(seeds) -> str:
    seeds = sorted(seeds)
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}–{seeds[-1]}"
    return ", ".join(map(str, seeds))
