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


def _holm_by_definition(p):
    """The largest level-free form: p_(i) corrected is the maximum over the smaller ones."""
    m = len(p)
    return [max(min(1.0, (m - sorted(p).index(q)) * q) for q in p if q <= mine) for mine in p]


def test_holm_rejects_as_the_procedure_does():
    # Holm's step-down by hand: .001 * 4, then .01 * 3, then .02 * 2, then .5 * 1.
    np.testing.assert_allclose(stats.holm([0.5, 0.01, 0.001, 0.02]), [0.5, 0.03, 0.004, 0.04])
    # A small one after a larger one cannot be more significant than that.
    np.testing.assert_allclose(stats.holm([0.03, 0.04]), [0.06, 0.06])
    assert stats.holm([0.9, 0.8]) == [1.0, 1.0]
    assert stats.holm([]) == []
    # What was not compared is not counted.
    found = stats.holm([0.01, math.nan, 0.02])
    np.testing.assert_allclose(found, [0.02, math.nan, 0.02])
    rng = np.random.default_rng(0)
    for _ in range(20):
        p = list(rng.random(7) ** 3)
        np.testing.assert_allclose(stats.holm(p), _holm_by_definition(p), rtol=1e-12)


def test_holm_keeps_its_promise():
    """Of true null hypotheses, any is called significant in at most 5 % of the tables."""
    p = np.random.default_rng(1).random((4000, 6))
    wrong = np.mean([min(stats.holm(row)) < 0.05 for row in p])
    assert 0.035 < wrong < 0.06
    assert np.mean(p.min(1) < 0.05) > 0.2  # Without the correction.


def test_friedman_is_scipys_and_its_critical_difference_is_the_published_one():
    costs = np.random.default_rng(2).normal([0.0, 0.5, 1.0, 3.0], size=(14, 4))
    found = stats.friedman(costs)
    expected = scipy.stats.friedmanchisquare(*costs.T)
    np.testing.assert_allclose((found.statistic, found.p), expected, rtol=1e-12)
    np.testing.assert_allclose(found.ranks, scipy.stats.rankdata(costs, axis=1).mean(0))
    # Demsar 2006, section 3.2.2: q is 2.569 for four methods, CD 1.25 on 14 data sets.
    assert found.critical_difference == pytest.approx(2.569 * np.sqrt(4 * 5 / (6 * 14)), abs=1e-3)
    assert found.critical_difference == pytest.approx(1.25, abs=0.005)


def test_friedman_with_failures_and_ties():
    failed = stats.friedman([[1.0, 2.0, np.inf], [1.0, np.inf, np.inf]])
    assert failed.ranks == (1.0, 2.25, 2.75)
    assert stats.friedman(np.ones((3, 3)))[:3] == ((2.0, 2.0, 2.0), 0.0, 1.0)
    for wrong in (np.ones((1, 3)), np.ones((4, 2)), [[1, 2, np.nan], [1, 2, 3]]):
        with pytest.raises(ValueError, match="costs must be of shape"):
            stats.friedman(wrong)


def test_five_by_two():
    d = np.array([[0.02, 0.01], [0.03, 0.01], [0.01, 0.0], [0.02, 0.03], [0.01, 0.02]])
    squares, variances = (d**2).sum(), 2 * np.var(d, axis=1)
    f = squares / (2 * variances.sum())
    found = stats.five_by_two(d)
    np.testing.assert_allclose(found, (f, scipy.stats.f.sf(f, 10, 5)), rtol=1e-9)
    assert stats.five_by_two(np.zeros((5, 2))) == (0.0, 1.0)
    assert stats.five_by_two(np.ones((5, 2))) == (math.inf, 0.0)
    with pytest.raises(ValueError, match="shape"):
        stats.five_by_two([[1, 2]] * 4)


def test_bootstrap_covers_the_mean_of_nested_data():
    """Draws of outer units alone would miss the spread inside; of inner ones, that between."""
    rng = np.random.default_rng(3)
    data = rng.normal(size=(12, 1)) + 0.1 * rng.normal(size=(12, 5))
    low, high = stats.bootstrap(data, np.mean, axes=(0, 1), samples=1000)
    assert low < data.mean() < high
    # The spread between the twelve outer units decides.
    assert high - low == pytest.approx(2 * 1.96 * data.mean(1).std() / np.sqrt(12), rel=0.15)
    inner = stats.bootstrap(data, np.mean, axes=(1,), samples=1000)
    assert inner[1] - inner[0] < 0.2 * (high - low)
    again = stats.bootstrap(data, np.mean, axes=(0, 1), samples=1000)
    assert again == (low, high)
    # The axes stay where they are for the statistic; each outer unit draws for itself.
    shapes = stats.bootstrap(
        np.arange(24.0).reshape(2, 3, 4), lambda x: x.shape, axes=(2, 1), samples=3
    )
    assert shapes[0].tolist() == shapes[1].tolist() == [2, 3, 4]
    exact = stats.bootstrap(np.ones((3, 2)), lambda x: x.sum(0), axes=(0,), samples=10)
    assert exact[0].tolist() == exact[1].tolist() == [3.0, 3.0]


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
