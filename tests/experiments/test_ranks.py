"""Ranks of the methods of a table, and the shares of first and of first three places."""

import json
from pathlib import Path

from experiments.tables import ranks_of

RESULTS = Path(__file__).parents[2] / "results"


def _results(values, columns=("1%", "50%")):
    """The JSON of a table with one run for each cell: ``{row: value or {column: value}}``."""
    at = {row: v if isinstance(v, dict) else dict.fromkeys(columns, v) for row, v in values.items()}
    table = {
        "name": "t",
        "rows": {row: {} for row in values},
        "columns": {column: {} for column in columns},
        "metric": "test/accuracy",
        "select": "test/accuracy",
        "direction": "max",
        "also": {"train loss": "train/loss"},
        "seeds": [0],
        "tune_seeds": [],
        "baseline": next(iter(values)),
    }
    runs = [
        {
            "row": row,
            "column": column,
            "point": {},
            "seed": 0,
            "status": "done" if v is not None else "diverged",
            "final": {"test/accuracy": v, "train/loss": v} if v is not None else {},
        }
        for row, cells in at.items()
        for column, v in cells.items()
    ]
    return {"table": table, "runs": runs}


def _shares(text, heading):
    """``{method: the cells of its line}`` of one section of the report."""
    section = text.split(f"## By {heading}")[1].split("##")[0]
    lines = [line[1:-1].split("|") for line in section.splitlines() if line.startswith("| ")]
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines[1:]}


def test_ranks_share_ties_and_put_diverged_runs_last():
    results = _results({"a": 0.9, "b": 0.8, "c": 0.9, "d": None})
    found = ranks_of.ranks(results)
    assert [found["test/accuracy"][row, "1%"] for row in "abcd"] == [1, 3, 1, 4]
    assert [found["train loss"][row, "50%"] for row in "abcd"] == [2, 1, 2, 4]
    text = ranks_of.report([results])
    assert "(2 experiments)" in text
    assert _shares(text, "test/accuracy")["b"][:7] == ["0 %", "100 %"] * 3 + ["3.00"]


def test_first_three_places_are_three():
    """Four methods whose order turns round: each is first, second, third and fourth once."""
    rows, columns = "abcd", ("1%", "5%", "50%", "100%")
    values = {
        row: {c: -float((i + j) % 4) for j, c in enumerate(columns)} for i, row in enumerate(rows)
    }
    shares = _shares(ranks_of.report([_results(values, columns)]), "test/accuracy")
    # a: ranks 1, 2 at low budgets and 3, 4 at high ones; b: 2, 3 and 4, 1; and so on.
    assert shares["a"][:7] == ["50 %", "100 %", "0 %", "50 %", "25 %", "75 %", "2.50"]
    assert shares["b"][:7] == ["0 %", "100 %", "50 %", "50 %", "25 %", "75 %", "2.50"]
    assert shares["d"][:7] == ["50 %", "50 %", "0 %", "100 %", "25 %", "75 %", "2.50"]
    # Of four methods without ties, three are among the first three.
    assert sum(float(line[5].split()[0]) for line in shares.values()) == 300


def test_several_tables_are_one_list_of_experiments():
    first, second = _results({"a": 0.9, "b": 0.8}), _results({"a": 0.7, "b": 0.8})
    text = ranks_of.report([first, second])
    assert "(4 experiments)" in text
    assert _shares(text, "test/accuracy")["a"][4] == "50 %"


def test_the_committed_page_is_that_of_the_committed_tables():
    page = (RESULTS / "rex_ranks.md").read_text(encoding="utf-8")
    names = page.split("experiments.ranks ")[1].split("`")[0].split()
    tables = [json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")) for name in names]
    assert ranks_of.report(tables) == page
