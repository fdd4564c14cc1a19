"""The table of solvers is what the solvers say of themselves."""

from experiments.solving import overview, solvers


def test_the_table_of_the_solvers():
    lines = overview.table()
    named = {row.make(1, 1).name for row in overview.ROWS}
    assert set(solvers.SOLVERS) <= named
    cells = {line.split(" | ")[0]: line.split(" | ")[-1] for line in lines}
    assert cells["| `implicit`"] == "T + 2K + 6 |"
    assert cells["| `lv_hba`"] == "4, 2 of g |"
