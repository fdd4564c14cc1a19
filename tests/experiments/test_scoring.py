"""Scores of times to a target: known answers, and the scores that AlgoPerf published."""

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from experiments.comparing import scoring

RECORD = Path(__file__).parents[1] / "reference" / "compare" / "algoperf_v06.csv"
INF = np.inf


@pytest.mark.fidelity
def test_published_scores_of_algoperf():
    """Of two submissions to AlgoPerf v0.6, from when their trials reached the targets."""
    with RECORD.open() as stream:
        rows = list(csv.DictReader(stream))
    names = ["shampoo", "baseline"]
    workloads = sorted({r["workload"] for r in rows})
    studies = sorted({r["study"] for r in rows})
    times = np.full((len(names), len(workloads), len(studies), 1), INF)
    for s, w, k in itertools.product(names, workloads, studies):
        mine = [r for r in rows if (r["submission"], r["workload"], r["study"]) == (s, w, k)]
        # Its program takes the trial with the earliest evaluation; of several, the quickest.
        reached = [
            (int(float(r["evaluation_index"])), float(r["seconds_to_target"]))
            for r in mine
            if r["evaluation_index"]
        ]
        if reached:
            place = names.index(s), workloads.index(w), studies.index(k), 0
            times[place] = min(reached)[1]
    of_workloads = scoring.of_workloads(times)
    np.testing.assert_allclose(scoring.score(of_workloads, points=100), [0.6244, 0.4590], atol=5e-5)
    np.testing.assert_allclose(scoring.score(of_workloads), [0.6239, 0.4580], atol=5e-5)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([[1, 2], [2, 1]], [5 / 6, 5 / 6]),
        ([[7, 3, 11]], [1]),  # Alone, it sets every best time.
        ([[7, INF]], [1 / 2]),
        ([[1], [4]], [1, 0]),
        ([[1], [INF]], [1, 0]),
        ([[1], [400]], [1, 0]),
        ([[INF], [INF]], [0, 0]),  # Nobody reaches it.
        ([[1, INF], [2.5, INF]], [1 / 2, 1 / 4]),
    ],
)
def test_known_scores(times, expected):
    np.testing.assert_allclose(scoring.score(times), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("studies", "expected"),
    [
        ([[1], [INF], [3]], 3),
        ([[INF], [INF], [3]], INF),
        ([[5, 2, 9], [4, INF, 7], [8, 3, INF]], 3),  # The fastest trials are 2, 4, 3.
        ([[1], [3]], 2),
        ([[1], [INF]], INF),
    ],
)
def test_median_over_studies_of_the_fastest_trial(studies, expected):
    assert scoring.of_workloads(studies) == expected
    assert scoring.of_workloads([[studies]]).tolist() == [[expected]]


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.nan])
def test_times_that_are_none(wrong):
    with pytest.raises(ValueError, match="times must be positive"):
        scoring.of_workloads([[1.0], [wrong]])


TIMES = arrays.arrays(
    np.float64,
    st.tuples(st.integers(2, 5), st.integers(1, 5)),
    elements=st.one_of(st.floats(0.5, 100.0), st.just(INF)),
)


@settings(deadline=None)
@given(TIMES)
def test_another_competitor_raises_nobodys_score(times):
    fewer, all_of_them = scoring.score(times[:-1]), scoring.score(times)
    assert (all_of_them[:-1] <= fewer + 1e-12).all()
    assert ((all_of_them >= 0) & (all_of_them <= 1)).all()


@settings(deadline=None)
@given(TIMES)
def test_the_score_is_the_integral_of_the_profile(times):
    np.testing.assert_allclose(scoring.score(times, points=30001), scoring.score(times), atol=1e-4)
    assert (np.diff(scoring.profile(times, [1.0, 1.5, 3.0, 4.0]), axis=1) >= 0).all()
    # Time has no unit.
    np.testing.assert_allclose(scoring.score(60 * times), scoring.score(times), rtol=1e-9)


def test_speed_up_over_the_baseline():
    times = [[10.0, 20.0, INF], [5.0, 40.0, 1.0], [2.5, INF, 3.0], [INF, INF, INF]]
    found = scoring.speed_up(times, baseline=0)
    np.testing.assert_allclose(found, [(1.0, 2), (1.0, 2), (4.0, 1), (np.nan, 0)], rtol=1e-12)
