"""The committed tables say what their JSON says, and are those that the configs define."""

import csv
import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from experiments import reproduce
from experiments.tables import cells, definition, render

RESULTS = Path(__file__).parents[2] / "results"
FILES = [
    file
    for file in sorted(RESULTS.rglob("*.json"))
    if not {"cache", "claims"} & set(file.relative_to(RESULTS).parts)
    and {"table", "runs", "environments"} <= set(json.loads(file.read_text(encoding="utf-8")))
]
each_file = pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)


def test_there_are_tables():
    assert "digits_optimizers" in {f.stem for f in FILES}


@each_file
def test_files_are_what_the_json_renders_to(file):
    results = json.loads(file.read_text(encoding="utf-8"))
    assert file.with_suffix(".md").read_text(encoding="utf-8") == render.markdown(results)
    # The last digits of quantiles and p-values are those of one version of scipy.
    texts = file.with_suffix(".csv").read_text(encoding="utf-8"), render.csv_text(results)
    cells_of = [[cell for line in csv.reader(t.splitlines()) for cell in line] for t in texts]
    for written, rendered in zip(*cells_of, strict=True):
        if written != rendered:
            assert float(written) == pytest.approx(float(rendered), rel=1e-8, abs=1e-15)
    assert render.json_text(results) == file.read_text(encoding="utf-8")
    if results["table"]["plots"]:
        assert file.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"


@each_file
def test_notes_are_those_of_the_config_and_about_these_runs(file):
    results = json.loads(file.read_text(encoding="utf-8"))
    table = definition.load(results["table"]["name"], results["table"]["scale"])
    assert table.notes
    assert table.notes_of == cells.print_of(results)
    for field in reproduce.LOOKS:
        assert json.dumps(results["table"][field]) == json.dumps(getattr(table, field)), field


@each_file
def test_every_column_is_that_of_the_runs(file):
    """Means, deviations, intervals, differences and p, from the runs by numpy and scipy alone."""
    results = json.loads(file.read_text(encoding="utf-8"))
    table, sign = results["table"], {"max": 1, "min": -1}[results["table"]["direction"]]
    tuning = table["tune_seeds"] or table["seeds"]
    values, also, chosen = {}, {}, {}
    for row, column in itertools.product(table["rows"], table["columns"]):
        mine = [r for r in results["runs"] if (r["row"], r["column"]) == (row, column)]
        done = [r for r in mine if r["status"] == "done"]
        scores: dict[str, list] = {_text(r["point"]): [] for r in mine}
        for r in done:
            if r["seed"] in tuning:
                scores[_text(r["point"])].append(sign * r["final"][table["select"]])
        whole = {k: np.mean(v) for k, v in scores.items() if len(v) == len(tuning)}
        best = json.loads(max(whole, key=lambda k: whole[k]))
        at_best = [r for r in done if r["point"] == best and r["seed"] in table["seeds"]]
        chosen[row, column] = best
        values[row, column] = {r["seed"]: r["final"][table["metric"]] for r in at_best}
        also[row, column] = [
            np.mean([r["final"].get(k, r["seconds"] if k == "seconds" else None) for r in at_best])
            for k in table["also"].values()
        ]
    with file.with_suffix(".csv").open(encoding="utf-8") as stream:
        lines = {(line["row"], line["column"]): line for line in csv.DictReader(stream)}
    assert lines.keys() == values.keys()
    for (row, column), line in lines.items():
        x = np.array(list(values[row, column].values()))
        found = [float(line[k]) for k in ("n", "mean")]
        np.testing.assert_allclose(found, [x.size, x.mean()], rtol=1e-12)
        for key, value in chosen[row, column].items():
            assert line[key] == str(value)
        np.testing.assert_allclose([float(line[k]) for k in table["also"]], also[row, column])
        if x.size < 2:
            assert line["std"] == line["low"] == line["p"] == ""
            continue
        half = scipy.stats.t.ppf(0.975, x.size - 1) * x.std(ddof=1) / np.sqrt(x.size)
        found = [float(line[k]) for k in ("std", "low", "high")]
        expected = [x.std(ddof=1), x.mean() - half, x.mean() + half]
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
        if row == table["baseline"]:
            assert line["difference"] == line["p"] == ""
            continue
        base = values[table["baseline"], column]
        d = np.array([v - base[s] for s, v in values[row, column].items() if s in base])
        np.testing.assert_allclose(float(line["difference"]), d.mean(), atol=1e-12)
        if d.std() > 1e-12:
            p = scipy.stats.ttest_1samp(d, 0.0).pvalue
            np.testing.assert_allclose(float(line["p"]), p, rtol=1e-6)
    # Holm, by its definition: the smallest of m times m, the next times m - 1, never falling.
    p = {place: float(line["p"]) for place, line in lines.items() if line["p"]}
    largest, text = 0.0, file.with_suffix(".md").read_text(encoding="utf-8")
    for i, place in enumerate(sorted(p, key=lambda k: p[k])):
        largest = max(largest, min(1.0, (len(p) - i) * p[place]))
        np.testing.assert_allclose(float(lines[place]["p_holm"]), largest, rtol=1e-12)
    starred = text.partition("## Details")[0].count(" \\* |") + text.count(" \\* (paper")
    assert starred == sum(float(line["p_holm"] or 1) < 0.05 for line in lines.values())


@each_file
def test_runs_are_those_of_the_table(file):
    """A table whose methods, grid, seeds or config were changed must be run again."""
    results = json.loads(file.read_text(encoding="utf-8"))
    table = definition.load(results["table"]["name"], results["table"]["scale"])
    made = {_place(r["row"], r["column"], r["point"], r["seed"]): r for r in results["runs"]}
    for row in table.rows:
        for column, seed in itertools.product(table.columns, table.tuning):
            for point in table.trials(row):
                assert _place(row, column, point, seed) in made
    assert len(made) == reproduce.count(table) == len(results["runs"])
    assert len({run["digest"] for run in results["runs"]}) == len(made)
    # The digest is that of the config: of every cell and point for one seed, of one for each seed.
    base, first = definition.base_config(table), min(table.tuning)
    one = next(iter(made))[:3]
    for (row, column, text, seed), run in made.items():
        if seed == first or (row, column, text) == one:
            point = next(p for p in table.trials(row) if _text(p) == text)
            planned = definition.run(table, base, row, column, point, seed)
            assert planned.digest == run["digest"], planned.label


def _text(point):
    return json.dumps(point)


def _place(row, column, point, seed):
    return row, column, _text(point), seed


@pytest.mark.parametrize("name", definition.names())
def test_every_table_plans(name):
    for scale in definition.definition(name)["scales"]:
        table = dataclasses.replace(definition.load(name, scale), seeds=(0,), tune_seeds=())
        assert len(definition.plan(table)) == reproduce.count(table)


def test_list_says_which_tables_are_measured():
    """Committed results lie in folders by subject; each counts."""
    measured = {(f.stem.removesuffix("-gpu"), "gpu" if "-gpu" in f.stem else "cpu") for f in FILES}
    name, said = "", {}
    for line in reproduce.listing().splitlines():
        if not line.startswith(" "):
            name = line.partition(":")[0]
        else:
            said[name, line.split("=")[1].partition(":")[0]] = "not measured yet" not in line
    assert {place for place, is_measured in said.items() if is_measured} == measured
    assert len(said) > len(measured)
