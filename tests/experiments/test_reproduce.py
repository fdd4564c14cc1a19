"""From a table's file to its numbers, with a main of milliseconds."""

import importlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import fake_main
import numpy as np
import pytest
import scipy.stats

from experiments import prune, reproduce, solve, train
from experiments.common import config_files, figures, provenance
from experiments.tables import cache, cells, definition, render

HERE = Path(__file__).parents[1]
GRID = {"optimizer.learning_rate": [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]}
TABLE = {
    "title": "Fake methods",
    "main": "fake",
    "config": "fake.py",
    "protocol": "A quadratic.",
    "rows": {"AdamW": {"optimizer.name": "adamw"}, "Lion": {"optimizer.name": "lion"}},
    "grid": GRID,
    "seeds": (0, 1, 2),
    "metric": "test",
    "select": "valid",
    "unit": "%",
    "digits": 2,
    "paper": {"Lion": {"": 88.5}},
    "source": "Nobody, 2020, table 1.",
    "plots": (),
    "scales": {"cpu": {"about": "a blink", "minutes": 2}},
}


@pytest.fixture
def define(tmp_path, monkeypatch):
    """Returns ``define(**fields) -> Table``; the table is the file ``fake`` of a folder."""
    monkeypatch.setattr(definition, "FOLDER", tmp_path / "tables")
    monkeypatch.setattr(definition, "ROOT", tmp_path)
    monkeypatch.setattr(reproduce, "COMMITTED", tmp_path / "committed")
    monkeypatch.setitem(sys.modules, "experiments.fake", fake_main)
    monkeypatch.setenv("FAKE_MAIN_LOG", str(tmp_path / "log"))
    (tmp_path / "tables").mkdir()
    (tmp_path / "fake.py").write_text("from fake_main import get_config\n")

    def write(scale="cpu", **fields):
        text = f"TABLE = { ({**TABLE, **fields})!r}\n"
        (tmp_path / "tables" / "fake.py").write_text(text)
        return definition.load("fake", scale)

    return write


def _execute(table, out_dir, **options):
    said = []
    results = reproduce.execute(table, out_dir, say=said.append, **options)
    return results, "\n".join(said)


def _made(tmp_path):
    log = tmp_path / "log"
    return log.read_text().splitlines() if log.exists() else []


def test_table_from_runs(define, tmp_path, capsys):
    table = define(plots=("points", "columns", "zoom", "grid", "history"))
    results, said = _execute(table, tmp_path / "out")
    assert results is not None
    assert "30 runs = 2 methods x 1 settings x 5 trials x 3 seeds; 30 to make, about 2 min" in said
    assert "30/30" in capsys.readouterr().err
    adamw, lion = cells.cells(results)
    assert adamw.chosen == {"optimizer.learning_rate": 1e-3}
    assert lion.chosen == {"optimizer.learning_rate": 1e-4}
    assert not adamw.edge
    tests = {
        row: [
            r["final"]["test"]
            for r in results["runs"]
            if r["row"] == row and list(r["point"].values()) == [lr]
        ]
        for row, lr in (("AdamW", 1e-3), ("Lion", 1e-4))
    }
    np.testing.assert_allclose(adamw.summary.std, np.std(tests["AdamW"], ddof=1), rtol=1e-12)
    assert lion.difference is not None
    expected = scipy.stats.ttest_rel(tests["Lion"], tests["AdamW"])
    np.testing.assert_allclose(lion.difference.p, expected.pvalue, rtol=1e-9)
    text = (tmp_path / "out" / "fake.md").read_text()
    assert text == render.markdown(json.loads((tmp_path / "out" / "fake.json").read_text()))
    assert "(paper 88.5)" in text
    assert "Nobody, 2020" in text
    assert f"{100 * np.mean(tests['AdamW']):.2f} ± " in text
    assert (tmp_path / "out" / "fake.png").read_bytes()[:4] == b"\x89PNG"
    lines = (tmp_path / "out" / "fake.csv").read_text().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("row,column,metric,n,mean,std,low,high")
    run = results["runs"][0]
    assert len(run["digest"]) == 16
    assert results["environments"][run["environment"]]["versions"]["jax"]


def test_second_time_runs_nothing_and_says_the_same(define, tmp_path):
    table = define()
    _execute(table, tmp_path / "out")
    made, text = _made(tmp_path), (tmp_path / "out" / "fake.md").read_bytes()
    (tmp_path / "out" / "fake.md").unlink()
    _, said = _execute(table, tmp_path / "out")
    assert "0 to make" in said
    assert _made(tmp_path) == made
    assert (tmp_path / "out" / "fake.md").read_bytes() == text


def test_populations_differ_only_in_what_the_main_allows(define):
    packs = reproduce._packs(define(packed=4), fake_main, definition.plan(define(packed=4)))
    assert sorted(len(p) for p in packs) == [1] * 6 + [4] * 6
    assert all(len({(r.row, r.seed) for r in pack}) == 1 for pack in packs)
    fixed = define(packed=4, grid={})
    packs = reproduce._packs(fixed, fake_main, definition.plan(fixed))
    assert [[r.seed for r in pack] for pack in packs] == [[0, 1, 2]] * 2
    # A main without populations makes one run at a time.
    assert len(reproduce._packs(define(), sys, definition.plan(define()))) == 30


@pytest.mark.parametrize("tune_seeds", [(), (0,)])
def test_shards_merge_to_the_same_table(define, tmp_path, tune_seeds):
    table = define(tune_seeds=tune_seeds, packed=4)
    whole, _ = _execute(table, tmp_path / "whole")
    (tmp_path / "log").unlink()
    first, said = _execute(table, tmp_path / "parts", shard=(1, 2))
    assert first is None
    assert "missing" in said
    half = len(_made(tmp_path))
    merged, _ = _execute(table, tmp_path / "parts", shard=(2, 2))
    assert merged is not None
    assert len(_made(tmp_path)) == len(set(_made(tmp_path))) == len(whole["runs"])
    assert 0.3 < half / len(whole["runs"]) < 0.7
    files = [(tmp_path / out / "fake.md").read_text() for out in ("whole", "parts")]
    assert files[0] == files[1]


def test_tuning_on_one_seed_then_reporting_on_others(define, tmp_path):
    table = define(tune_seeds=(7,), seeds=(0, 1, 2))
    results, said = _execute(table, tmp_path / "out")
    assert "x 1 seeds + 3 more seeds of the chosen" in said
    assert len(results["runs"]) == 2 * (5 + 3)
    cell = cells.cells(results)[0]
    assert (cell.summary.n, cell.chosen) == (3, {"optimizer.learning_rate": 1e-3})
    assert list(cell.values) == [0, 1, 2]
    # The reported number must not contain the seed that chose.
    assert 7 not in cell.values


def test_hyperparameters_that_are_tuples_stay_tuples(define, tmp_path):
    table = define(tune_seeds=(7,), grid={"pair": [(1.0, 2.0), (3.0, 4.0)]}, plots=("history",))
    results, _ = _execute(table, tmp_path / "out")
    assert {(r["status"], "history" in r) for r in results["runs"] if r["seed"] != 7} == {
        ("done", True)
    }


def test_diverged_runs_are_shown(define, tmp_path):
    table = define(
        base={"plant": "diverge"}, rows={**TABLE["rows"], "SGD": {"optimizer.name": "sgd"}}
    )
    results, _ = _execute(table, tmp_path / "out")
    found = {c.row: c for c in cells.cells(results)}
    assert {c.diverged for c in found.values()} == {3}
    # The best learning rate of SGD diverges: the best that finished is taken, at the grid's edge
    # of what can run, and the reader is told.
    assert found["SGD"].chosen == {"optimizer.learning_rate": 1e-2}
    text = render.markdown(results)
    assert "| 3 of 15 |" in text
    assert "‡ runs of this cell diverged" in text
    lost = [r for r in results["runs"] if r["status"] == "diverged"]
    assert lost[0]["error"] == "loss is nan at step 7"


def test_one_diverged_seed_of_a_population(define, tmp_path):
    grid = {"optimizer.learning_rate": 0.1}
    results, _ = _execute(define(base={"plant": "nan"}, grid=grid), tmp_path / "out")
    cell = cells.cells(results)[0]
    assert (cell.summary.n, cell.diverged, sorted(cell.values)) == (2, 1, [0, 2])
    assert "| 2 of 3 |" in render.markdown(results)


def test_training_with_a_planted_divergence(define, tmp_path, monkeypatch):
    monkeypatch.setattr(definition, "ROOT", HERE.parent)
    table = define(
        main="train",
        config="configs/digits.py:smoke",
        base={"model.options.widths": (16,)},
        rows={"SGDM": {"optimizer.name": "sgd", "optimizer.momentum": 0.9}},
        grid={"optimizer.learning_rate": [0.01, 1e30]},
        seeds=(0, 1),
        metric="test/accuracy",
        select="valid/accuracy",
        also={"state": "state_bytes_per_parameter"},
        paper={},
    )
    results, _ = _execute(table, tmp_path / "out")
    (cell,) = cells.cells(results)
    assert (cell.diverged, cell.runs, cell.summary.n) == (2, 4, 2)
    assert cell.chosen == {"optimizer.learning_rate": 0.01}
    assert cell.also["state"].mean == 4.0
    # A run of a population has the numbers that it has alone.
    (run,) = [r for r in definition.plan(table) if r.digest == results["runs"][0]["digest"]]
    alone = importlib.import_module("experiments.train").run(run.config, quiet=True).final
    assert alone.keys() == results["runs"][0]["final"].keys()
    for key, value in alone.items():
        np.testing.assert_allclose(results["runs"][0]["final"][key], value, rtol=1e-5, err_msg=key)


def test_failed_runs_are_counted_and_made_again(define, tmp_path):
    table = define(base={"plant": "fail"})
    results, _ = _execute(table, tmp_path / "out")
    assert [c.failed for c in cells.cells(results)] == [5, 5]
    assert "RuntimeError: out of luck" in results["runs"][2]["error"]
    failed = {line for line in _made(tmp_path) if '"seed": 2' in line}
    (tmp_path / "log").unlink()
    _execute(table, tmp_path / "out")
    assert set(_made(tmp_path)) == failed


def test_first_failure_stops(define, tmp_path, capsys):
    with pytest.raises(RuntimeError, match="out of luck"):
        _execute(define(base={"plant": "fail"}, seeds=(2,)), tmp_path / "out")
    assert "the first run, AdamW learning_rate=1e-05 seed=2, failed" in capsys.readouterr().err


def test_corrupt_result_is_set_aside_and_made_again(define, tmp_path):
    table = define()
    _execute(table, tmp_path / "out")
    before, made = (tmp_path / "out" / "fake.md").read_text(), len(_made(tmp_path))
    first, second, third = [r.digest for r in definition.plan(table)][:3]
    folder = tmp_path / "out" / "cache"
    (folder / f"{first}.json").write_text("{")
    text = (folder / f"{second}.json").read_text()
    (folder / f"{second}.json").write_text(text.replace('"done"', '"diverged"'))
    (folder / f"{third}.json").write_text("[]")
    _, said = _execute(table, tmp_path / "out")
    assert all(f"corrupt result set aside as {folder / d}" in said for d in (first, second, third))
    assert (folder / f"{first}.corrupt").read_text() == "{"
    assert len(_made(tmp_path)) == made + 3
    assert (tmp_path / "out" / "fake.md").read_text() == before


def test_dry_run_and_list(define, tmp_path):
    results, said = _execute(define(), tmp_path / "out", dry_run=True)
    assert results is None
    assert not _made(tmp_path)
    assert "30 to make" in said
    assert (
        "fake: Fake methods\n  --scale=cpu: 30 runs, about 2 min (not measured yet); a blink"
        in (reproduce.listing())
    )


def test_render_takes_words_from_the_file_and_numbers_from_the_json(define, tmp_path):
    _execute(define(), tmp_path / "out")
    numbers = json.loads((tmp_path / "out" / "fake.json").read_text())["runs"]
    define(source="Somebody, 2021.", seeds=(0,))
    reproduce.refresh("fake", "cpu", tmp_path / "out", say=lambda _: None)
    assert json.loads((tmp_path / "out" / "fake.json").read_text())["runs"] == numbers
    text = (tmp_path / "out" / "fake.md").read_text()
    assert "Paper: Somebody, 2021." in text
    assert "over 3 seeds" in text
    with pytest.raises(ValueError, match="run --table=fake first"):
        reproduce.refresh("fake", "cpu", tmp_path / "nowhere")


def test_notes_stand_below_the_runs_that_they_are_about_and_no_others(define, tmp_path):
    notes = {"notes": ["Lion wins at 0.0001."], "also": {"the loss": "loss"}}
    results, said = _execute(define(**notes), tmp_path / "out")
    made = cells.print_of(results)
    assert f"left out; once they say what these runs show, set notes_of to {made}" in said
    page = tmp_path / "out" / "fake.md"
    assert "Lion wins" not in page.read_text()
    assert json.loads((tmp_path / "out" / "fake.json").read_text())["table"]["notes"] == []

    _, said = _execute(define(**notes, notes_of=made), tmp_path / "out")
    assert "left out" not in said
    assert "- Lion wins at 0.0001." in page.read_text()
    before = page.read_bytes()
    reproduce.refresh("fake", "cpu", tmp_path / "out", say=lambda _: None)
    assert page.read_bytes() == before

    others = [
        {"grid": {"optimizer.learning_rate": [1e-3]}},  # Another choice.
        {"base": {"steps": 11}},  # Other numbers.
        {"seeds": (0, 1)},
        {"columns": {"one": {}, "two": {"steps": 12}}, "paper": {}},
    ]
    for i, fields in enumerate(others):
        out = tmp_path / f"other{i}"
        _, said = _execute(define(**notes, notes_of=made, **fields), out)
        assert "left out" in said, fields
        assert "Lion wins" not in (out / "fake.md").read_text(), fields
        reproduce.refresh("fake", "cpu", out, say=lambda _: None)
        assert "Lion wins" not in (out / "fake.md").read_text(), fields


def test_protocol_takes_its_numbers_from_the_config(define):
    table = define(
        protocol="{steps} steps, {optimizer.weight_decay} decay, {optimizer.name}, {pair}.",
        base={"steps": 12, "pair": (300, 100)},
    )
    assert table.protocol == "12 steps, 0 decay, adamw, 300-100."


def test_runs_of_other_code_of_ones_own_are_made_again(define, tmp_path, monkeypatch):
    """A config may bring a model along; the cache must not give the old one's numbers."""
    monkeypatch.syspath_prepend(tmp_path)
    define()
    (tmp_path / "deeper_model.py").write_text("WIDTH = 1\n")
    (tmp_path / "own_model.py").write_text("def f():\n    import deeper_model\n")
    (tmp_path / "fake.py").write_text("import own_model\nfrom fake_main import get_config\n")
    out = tmp_path / "out"
    _execute(define(), out)
    assert "0 to make" in _execute(define(), out)[1]
    for name in ("deeper_model.py", "own_model.py", "fake.py"):
        with (tmp_path / name).open("a") as file:
            file.write("CHANGED = True\n")
        _, said = _execute(define(), out)
        assert "30 cached runs were made by other source code of your own" in said, name
        assert "30 to make" in said, name
        assert "0 to make" in _execute(define(), out)[1], name


def test_configs_that_only_set_keys_are_no_code_of_ones_own():
    none = provenance.own_code()
    configs = HERE.parent / "configs"
    assert provenance.own_code(configs / "digits.py", configs / "pruning" / "digits.py") == none
    assert provenance.own_code(HERE / "fake_main.py") != none


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rows": {"A": {}, "B": {}}}, "duplicate runs: 'A"),
        ({"grid": {"stepz": 1}}, "no key 'stepz'; nearest: steps"),
        ({"grid": "zip(seed=[1, 2], steps=[1])"}, "equal length"),
        ({"grid": [{"steps": 1}, {"steps": 1}]}, "points 1 and 2 are the same: steps=1"),
        ({"grid": {"steps": []}}, "steps has an empty list of values"),
        ({"grid": []}, "grid must not be empty"),
        ({"grid": {"AdamW": {"steps": [1, 2]}, "Lion": {"steps": 1}}}, "same number of trials"),
        ({"grid": {"AdamW": {"steps": [1, 2]}}}, "grid has no row 'Lion'"),
        ({"grid": {"optimizer.name": ["adamw", "lion"]}}, "optimizer.name is set twice"),
        ({"rows": {"A": {"steps": [1, 2]}}}, "'A' must be one point"),
        ({"protocol": "{step} steps"}, "in protocol: 'step'"),
        ({"baseline": "Adam"}, "baseline names the unknown row 'Adam'; nearest: AdamW"),
        ({"paper": {"Lyon": {}}}, "paper names the unknown row 'Lyon'; nearest: Lion"),
        ({"plots": ["bar"]}, "unknown plot 'bar'"),
        ({"metrics": "test"}, "unknown field 'metrics'; nearest: metric"),
        ({"seeds": (0, 0)}, "seeds holds a seed twice"),
        ({"direction": "up"}, "direction must be"),
        ({"scales": {"gpu": {}}}, "has no scale 'cpu'; nearest: gpu"),
        ({"config": "fakes.py"}, "there is no config file"),
    ],
)
def test_bad_tables(define, fields, message):
    with pytest.raises(ValueError) as error:
        definition.plan(define(**({"paper": {}} | fields)))
    assert message in str(error.value)


def test_unknown_table_and_metric(define, tmp_path):
    define()
    with pytest.raises(ValueError, match="there is no table 'fakke'; nearest: fake"):
        definition.load("fakke")
    with pytest.raises(ValueError, match=r"report no 'tests'; there are: loss, test, valid"):
        _execute(define(metric="tests"), tmp_path / "out")


def test_a_table_of_ones_own_lies_anywhere(define, tmp_path, monkeypatch):
    define()
    folder = tmp_path / "else.where"
    folder.mkdir()
    (folder / "own.py").write_text("from fake_main import get_config\n")
    for config in ("own.py", "fake.py"):  # Beside it, or the project's.
        (folder / "my.table.py").write_text(f"TABLE = { ({**TABLE, 'config': config})!r}\n")
        table = definition.load(str(folder / "my.table.py"))
        results, said = _execute(table, tmp_path / "out")
        assert results["command"].endswith(f"--table={folder}/my.table.py")
        assert f"wrote {tmp_path}/out/my.table.md" in said
    assert len(_made(tmp_path)) == 30  # The same runs.
    reproduce.refresh(table.name, "cpu", tmp_path / "out", said.splitlines().append)
    monkeypatch.setenv("HOME", str(folder))
    assert definition.load("~/my.table.py").rows == table.rows
    (folder / "my.table.py").write_text("")
    with pytest.raises(ValueError, match=r"my\.table\.py has no dict TABLE"):
        definition.load(str(folder / "my.table.py"))


def test_a_file_that_is_no_table_is_not_rendered(define, tmp_path):
    define()
    for text, message in (("{", "is no JSON"), ("[]", "is no table of experiments.reproduce")):
        (tmp_path / "fake.json").write_text(text)
        with pytest.raises(ValueError, match=rf"fake\.json {message}"):
            reproduce.refresh("fake", "cpu", tmp_path)


def test_every_cell_is_checked_before_the_first_run(define, tmp_path, monkeypatch):
    def check(config, data_dir):
        if config.optimizer.name == "lion" and config.optimizer.learning_rate == 1e-1:
            raise ValueError("lion takes no such rate")

    monkeypatch.setattr(fake_main, "check", check, raising=False)
    with pytest.raises(ValueError, match=r"^Lion learning_rate=0\.1 seed=\d: lion takes no"):
        _execute(define(), tmp_path / "out")
    assert not _made(tmp_path)


def test_the_mains_refuse_a_mistyped_option():
    point = {"optimizer.beta1": 0.9}
    for main, name in ((train, "digits"), (prune, "pruning/digits")):
        config = config_files.override(config_files.load(f"configs/{name}.py"), point)
        with pytest.raises(ValueError, match=r"takes no optimizer\.beta1; nearest: "):
            main.check(config)
    config = config_files.load("configs/bilevel/closed_form.py")
    config = config_files.override(config, {"solver.options.lower_stp": 0.1})
    with pytest.raises(ValueError, match="takes no 'lower_stp'"):
        solve.check(config)


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "-1/2", "1/0"])
def test_bad_shards(text):
    with pytest.raises(ValueError, match="shard must be i/n with 1 <= i <= n"):
        reproduce.parse_shard(text)


def test_digest_is_that_of_the_content():
    config = fake_main.get_config()
    same = cache.digest("train", config)
    config.seed = 1
    assert cache.digest("train", config) != same
    config.seed = 0
    assert cache.digest("train", config) == same
    assert cache.digest("solve", config) != same


def test_kill_at_any_moment(define, tmp_path):
    """Killed, the table is that of one uninterrupted run, and no run is made twice."""
    table = define(base={"sleep": 0.03}, packed=2)
    _execute(table, tmp_path / "whole")
    (tmp_path / "log").unlink()
    code = textwrap.dedent(f"""
        import sys
        sys.path[:0] = [{str(HERE.parent)!r}, {str(HERE)!r}]
        import fake_main
        sys.modules["experiments.fake"] = fake_main
        from pathlib import Path
        from experiments import reproduce
        from experiments.tables import definition
        definition.ROOT = Path({str(tmp_path)!r})
        definition.FOLDER = definition.ROOT / "tables"
        reproduce.execute(definition.load("fake"), Path({str(tmp_path / "killed")!r}))
    """)
    folder = tmp_path / "killed" / "cache"

    def finished():
        return {p.stem for p in folder.glob("*.json")} if folder.exists() else set()

    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    while len(finished()) < 7 and process.poll() is None:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = finished()
    assert kept
    before = {d: (folder / f"{d}.json").read_bytes() for d in kept}
    _execute(table, tmp_path / "killed")
    for name in ("fake.md", "fake.csv"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert all((folder / f"{d}.json").read_bytes() == content for d, content in before.items())
    # What was made twice was under way when it was killed: at most one pack of two.
    assert len(_made(tmp_path)) - len(set(_made(tmp_path))) <= 2


def test_seconds_are_the_mains_own_where_it_reports_them():
    run = {"status": "done", "seconds": 1.0, "final": {"loss": 2.0}}
    assert cells.number(run, "seconds") == 1.0
    assert cells.number(run | {"final": {"seconds": 3.0}}, "seconds") == 3.0


def test_long_names_below_an_axis_are_turned():
    from matplotlib.figure import Figure

    from experiments.tables import pictures

    axis = Figure().add_subplot()
    for names, angle in ((["a", "b"], 0), (["a long name"] * 5, 30)):
        axis.set_xticks(range(len(names)), names)
        pictures._fit_labels(axis)
        assert {label.get_rotation() for label in axis.get_xticklabels()} == {angle}
    assert len(set(figures.COLORS)) > 10
