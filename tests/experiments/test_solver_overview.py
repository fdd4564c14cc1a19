"""The table of solvers in the README is what the solvers say of themselves."""

from pathlib import Path

from experiments.solving import overview, solvers


def test_the_readme_shows_the_table_of_the_solvers():
    lines = overview.table()
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert "\n".join(lines) in text
    named = {row.make(1, 1).name for row in overview.ROWS}
    assert set(solvers.SOLVERS) <= named
    cells = {line.split(" | ")[0]: line.split(" | ")[-1] for line in lines}
    assert cells["| `implicit`"] == "T + 2K + 6 |"
    assert cells["| `lv_hba`"] == "4, 2 of g |"
