"""The pages of studies say what the JSON beside them says; tables have a test of their own."""

import importlib
import json
import re
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parents[1] / "results"
WRITTEN = {
    "small/greedy_blocks": "greedy_blocks",
    "small/batch_sizes": "batch_sizes",
    "small/grokking": "grokking",
    "small/step_law": "step_law",
    "small/softmax_collapse": "softmax_collapse",
    "small/cosine_power": "cosine_power",
    "small/projected_muon": "projected_muon",
    "small/claims": "small_claims",
    "bilevel/recommended": "recommended",
    "bilevel/tolerance": "tolerance",
    "compare/recommendations": "recommendations",
}


def page_of(name):
    return (RESULTS / f"{name}.md").read_text(encoding="utf-8")


def content_of(name):
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def rows_of(name):
    lines = [line for line in page_of(name).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_pages_are_what_their_json_renders_to():
    for name, module in WRITTEN.items():
        page = importlib.import_module(f"benchmarks.{module}").page
        assert page(content_of(name)).rstrip() == page_of(name).rstrip(), name


def test_rates_of_the_penalty_method():
    found, rows = content_of("bilevel/rates"), rows_of("bilevel/rates")
    for problem, numbers in found["gap"].items():
        row = next(row for row in rows if row[0].startswith(problem.capitalize()))
        if problem == "p4":
            assert row[1] == "0.000: the largest gap over x stays 1"
            np.testing.assert_allclose(numbers["largest"], 1, atol=1e-4)
            continue
        written = [float(cell) for cell in row[1:] if cell]
        assert written == [round(numbers[k], 3) for k in ("value", "gradient", "x_sigma")
                           if k in numbers]  # fmt: skip
    for kind, numbers in found["complexity"].items():
        row = next(row for row in rows if row[0].startswith(kind))
        assert row[1] == "{} to {}".format(*np.array(numbers["epsilon"])[[0, -1]])
        gradients = [float(x) for x in row[2].split(" to ")]
        np.testing.assert_allclose(gradients, np.array(numbers["gradients"])[[0, -1]], rtol=5e-3)
        slope = np.polyfit(np.log(numbers["epsilon"]), np.log(numbers["gradients"]), 1)[0]
        assert float(row[3]) == round(slope, 2) == round(-numbers["slope"], 2)


def test_lv_hba_on_the_synthetic_problems():
    found, rows = content_of("bilevel/lv_hba_synthetic"), rows_of("bilevel/lv_hba_synthetic")
    llc, llsc, long, bfgs = (row[2] for row in rows[2:])
    expected = found["llc"]["error"][0], found["llc"]["x_error"][0]
    assert llc == "relative error {:.2e} (x alone {:.1e})".format(*expected).replace("e-0", "e-")
    values = [found["llsc"][k][0] for k in ("objective", "psi", "y_gap")]
    assert llsc.replace("\\|", "|") == "F {:.4f}; psi {:.4f}, |y - y*| {:.3f}".format(*values)
    psi, gap = np.array(found["llsc_long"]["psi"]), np.max(found["llsc_long"]["y_gap"])
    best = psi < 0
    assert np.ptp(psi[best]) < 1e-4
    text = f"psi {psi[best].mean():.5f} from {best.sum()} starts, {psi[~best].mean():.3f} from "
    assert long.replace("\\|", "|") == f"{text}{(~best).sum()}; |y - y*| <= {gap:.4f}"
    groups = dict(zip(*np.unique(np.round(found["bfgs"], 3), return_counts=True), strict=True))
    for value, count in re.findall(r"(-?[\d.]+) from (\d+)", bfgs):
        assert groups[round(float(value), 3)] == int(count)


def test_solvers_in_benchopt():
    rows = rows_of("bilevel/benchopt")
    earlier = {row[0]: row[1:] for row in rows}  # The second table, whose curves are kept.
    for solver, curve in content_of("bilevel/benchopt").items():
        last, seconds, gap = curve["rows"][-1]
        iterations, each, left, *reached = earlier[solver]
        assert int(iterations) == last
        np.testing.assert_allclose(float(each), seconds / last, rtol=0.03)
        np.testing.assert_allclose(float(left), gap, rtol=0.03)
        for level, text in zip((1, 0.1), reached, strict=True):
            at = next((t for _, t, g in curve["rows"] if g <= level), None)
            assert text == ("never" if at is None else f"{at:.1f}")


def test_ratios_of_populations():
    for *_, together, alone, ratio in rows_of("compare/populations_cpu")[2:]:
        np.testing.assert_allclose(float(ratio), float(together) / float(alone), rtol=0.03)
