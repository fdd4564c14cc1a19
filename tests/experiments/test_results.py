"""The committed tables say what their JSON says, and are those that the configs define."""

import dataclasses
import itertools
import json
from pathlib import Path

import pytest

from experiments import reproduce
from experiments.tables import definition, render

RESULTS = Path(__file__).parents[2] / "results"
FILES = [
    file
    for file in sorted(RESULTS.rglob("*.json"))
    if "cache" not in file.relative_to(RESULTS).parts
    and {"table", "runs", "environments"} <= json.loads(file.read_text(encoding="utf-8")).keys()
]


def test_there_are_tables():
    assert "digits_optimizers" in {f.stem for f in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_files_are_what_the_json_renders_to(file):
    results = json.loads(file.read_text(encoding="utf-8"))
    assert file.with_suffix(".md").read_text(encoding="utf-8") == render.markdown(results)
    assert file.with_suffix(".csv").read_text(encoding="utf-8") == render.csv_text(results)
    assert render.json_text(results) == file.read_text(encoding="utf-8")
    if results["table"]["plots"]:
        assert file.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_runs_are_those_of_the_table(file):
    """A table whose methods, grid or seeds were changed must be run again."""
    results = json.loads(file.read_text(encoding="utf-8"))
    table = definition.load(results["table"]["name"], results["table"]["scale"])
    made = {_place(run["row"], run["column"], run["point"], run["seed"]) for run in results["runs"]}
    for row in table.rows:
        for column, seed in itertools.product(table.columns, table.tuning):
            for point in table.trials(row):
                assert _place(row, column, point, seed) in made
    assert len(made) == reproduce.count(table) == len(results["runs"])
    assert len({run["digest"] for run in results["runs"]}) == len(made)


def _place(row, column, point, seed):
    return row, column, json.dumps(point), seed


@pytest.mark.parametrize("name", definition.names())
def test_every_table_plans(name):
    for scale in definition.definition(name)["scales"]:
        table = dataclasses.replace(definition.load(name, scale), seeds=(0,), tune_seeds=())
        assert len(definition.plan(table)) == reproduce.count(table)
