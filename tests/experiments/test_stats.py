"""Statistics of tables against scipy."""

import math

import numpy as np
import pytest
import scipy.stats

from experiments.tables import stats

# Test accuracies of two methods over the same ten seeds.
A = [0.9712, 0.9689, 0.9731, 0.9702, 0.9667, 0.9745, 0.9699, 0.9721, 0.9688, 0.9710]
B = [0.9701, 0.9694, 0.9699, 0.9688, 0.9670, 0.9712, 0.9680, 0.9705, 0.9690, 0.9689]


def test_interval_is_scipys():
    found = stats.summarize(A)
    expected = scipy.stats.t.interval(0.95, len(A) - 1, np.mean(A), scipy.stats.sem(A))
    np.testing.assert_allclose(found, (10, np.mean(A), np.std(A, ddof=1), *expected), rtol=1e-12)


def test_paired_is_scipys():
    found = stats.paired(A, B)
    expected = scipy.stats.ttest_rel(A, B)
    low, high = expected.confidence_interval(0.95)
    np.testing.assert_allclose(
        found, (10, np.mean(A) - np.mean(B), low, high, expected.pvalue), rtol=1e-9
    )


def test_few_values():
    assert stats.summarize([]).n == 0
    assert stats.summarize([2.0])[:2] == (1, 2.0)
    assert math.isnan(stats.summarize([2.0]).std)
    assert math.isnan(stats.paired([2.0], [1.0]).p)
    assert stats.paired([2.0, 3.0], [2.0, 3.0]).p == 1.0
    assert stats.paired([2.0, 3.0], [1.0, 2.0]).p == 0.0
    with pytest.raises(ValueError, match="2 and 1"):
        stats.paired([1.0, 2.0], [1.0])


def test_choice_prefers_settings_that_finished():
    assert stats.choose([[0.1, 0.3], [0.3, 0.2], [0.9, None], [None, None]], "max").index == 1
    assert stats.choose([[0.1, 0.3], [0.3, 0.2], [0.0, None]], "min").index == 0
    assert stats.choose([[None, None], [0.5, None]], "max") == (1, 0.5, 1)
    assert math.isnan(stats.choose([[None]], "max").value)
    assert stats.choose([[0.5], [0.5]], "max").index == 0
    with pytest.raises(ValueError, match="direction"):
        stats.choose([[1.0]], "up")


def test_edges():
    grid = [{"lr": a, "wd": b, "name": "x"} for a in (0.1, 1.0, 10.0) for b in (0, 0.1)]
    assert stats.at_edge({"lr": 1.0, "wd": 0, "name": "x"}, grid) == {}
    assert stats.at_edge({"lr": 10.0, "wd": 0.1, "name": "x"}, grid) == {
        "lr": "highest",
        "wd": "highest",
    }
    assert stats.at_edge({"lr": 0.1, "wd": 0, "name": "x"}, grid) == {"lr": "lowest"}
    assert stats.at_edge({"lr": 0.1}, [{"lr": 0.1}]) == {}
    lists = [{"step": ["adam", 0.1]}, {"step": ["adam", 0.3]}]
    assert stats.at_edge(lists[1], lists) == {}
