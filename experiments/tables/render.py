"""From the JSON of a table to its Markdown, CSV and picture. Nothing is run."""

import csv
import io
import json
import math
from pathlib import Path

from experiments.common import files
from experiments.common import markdown as md
from experiments.tables import cache, pictures, stats
from experiments.tables.cells import Results, cells

__all__ = ["csv_text", "json_text", "markdown", "path", "write"]

LEVEL = 0.05


def markdown(results: Results) -> str:
    """Returns the table as Markdown: the numbers, what they say, and how they were made."""
    table, all_cells = results["table"], cells(results)
    by_place = {(c.row, c.column): c for c in all_cells}
    columns, also = list(table["columns"]), list(table["also"])
    lines = [f"# {table['title']}", "", table["protocol"], "", _reading(table, all_cells), ""]
    setting = table.get("setting", "") if len(columns) > 1 else ""
    head = [c or _plain_name(table["metric"]) for c in columns]
    head += [f"{c}: {a}" if len(columns) > 1 else a for c in columns for a in also]
    rows = []
    best = {c: _best(table, [by_place[r, c] for r in table["rows"]]) for c in columns}
    for row in table["rows"]:
        line = [row]
        for column in columns:
            cell = by_place[row, column]
            text = _mean_std(table, cell.summary)
            text = (f"**{text}**" if row in best[column] else text) + _marks(cell)
            paper = table["paper"].get(row, {}).get(column)
            line.append(text if paper is None else f"{text} (paper {paper})")
        line += [_compact(by_place[row, c].also[a]) for c in columns for a in also]
        rows.append(line)
    lines += [*md.table([setting, *head], rows), ""]
    legend = []
    if any(c.edge for c in all_cells):
        legend.append("† the best hyperparameter lies at the edge of the grid.")
    if any(c.diverged or c.failed for c in all_cells):
        legend.append("‡ runs of this cell diverged or failed, tuning included; see below.")
    legend += _significance(table, all_cells)
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
    head += [f"difference to {table['baseline']} [95 %]", "p", "p (Holm)", "diverged", "failed"]
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
                "–" if d is None else _p_text(d.p),
                _p_text(c.p),
                f"{c.diverged} of {c.runs}",
                f"{c.failed} of {c.runs}",
            ]
        )
    return md.table(head, rows)


def _made_by(results) -> str:
    kinds = {
        f"{e['machine']} ({', '.join(f'{k} {v}' for k, v in sorted(e['versions'].items()))})"
        for e in results["environments"]
    }
    table = results["table"]
    return (
        f"`{results['command']}`, {len(results['runs'])} runs, seeds {_ranges(table['seeds'])},"
        f" on {'; '.join(sorted(kinds))}. p: two-sided paired t-test over seeds; p (Holm):"
        " corrected for the number of comparisons in this table. Every run's numbers are in the"
        " JSON file beside this one."
    )


def csv_text(results: Results) -> str:
    """Returns one line for each cell, in full precision."""
    table, out = results["table"], io.StringIO()
    head = (
        "row column metric n mean std low high difference difference_low difference_high p p_holm"
    )
    keys = sorted({k for row in cells(results) for k in row.chosen})
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*head.split(), "diverged", "failed", "runs", "paper", *keys, *table["also"]])
    for c in cells(results):
        d = c.difference or stats.Paired(0, *[math.nan] * 4)
        numbers = [c.summary.n, *c.summary[1:], *d[1:], c.p]
        line = [c.row, c.column, table["metric"], *("" if v != v else v for v in numbers)]
        line += [c.diverged, c.failed, c.runs, table["paper"].get(c.row, {}).get(c.column, "")]
        line += [c.chosen.get(k, "") for k in keys] + [a.mean for a in c.also.values()]
        writer.writerow(line)
    return out.getvalue()


def path(name: str, scale: str, folder: Path) -> Path:
    """Returns the JSON file of a table; the others lie beside it."""
    stem = Path(name).stem if name.endswith(".py") else name
    return folder / f"{stem}{'' if scale == 'cpu' else f'-{scale}'}.json"


def write(results: Results, folder: Path) -> list[Path]:
    """Writes NAME.json, .md, .csv and .png (with ``plots``); returns the paths."""
    json_file = path(results["table"]["name"], results["table"]["scale"], folder)
    contents: dict[str, str | bytes] = {
        ".json": json_text(results),
        ".md": markdown(results),
        ".csv": csv_text(results),
    }
    if results["table"]["plots"]:
        contents[".png"] = pictures.png(results)
    paths = {json_file.with_suffix(suffix): content for suffix, content in contents.items()}
    files.write_all(paths)
    return list(paths)


def json_text(results: Results) -> str:
    """Returns standard JSON, a run per line; numbers that are not finite become null."""

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
    return "".join(marks + [" \\*"] * (cell.p < LEVEL))


def _significance(table, all_cells) -> list[str]:
    """What the corrected p-values say, in one sentence."""
    compared = [c.p for c in all_cells if not math.isnan(c.p)]
    if not compared:
        return []
    after = f"p < {LEVEL}"
    if len(compared) > 1:
        after += f" after Holm's correction for the {len(compared)} comparisons of this table"
    if min(compared) < LEVEL:
        return [f"\\* differs from {table['baseline']} with {after}."]
    return [f"No difference to {table['baseline']} has {after}."]


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
    if math.isnan(p):
        return "–"
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
