"""Allocation of levels: dynamic programming against brute force, EvoPress against its record."""

import itertools

import numpy as np
import pytest
import sparse_records as records

import bilevel
from bilevel import allocate
from experiments.pruning import sparse_methods


@pytest.mark.fidelity
def test_levels_of_rate_distortion_equal_brute_force():
    record, h = records.load("rd_dp")
    for c, case in enumerate(h["cases"]):
        params = [np.zeros(n) for n in case["sizes"]]
        levels = allocate.rate_distortion(
            params, record[f"phi{c}"], list(record[f"dist{c}"]), 1 - case["target"]
        )
        assert np.array_equal(levels, record[f"best_level{c}"])
        theirs = allocate.rate_distortion(
            params, record[f"phi{c}"], list(record[f"dist{c}"]), 1 - case["target"], authors=True
        )
        assert np.array_equal(theirs, record[f"level{c}"])


def test_rate_distortion_on_random_costs_and_bad_input():
    rng = np.random.default_rng(0)
    phi, sizes = [0.0, 0.3, 0.7, 1.0], (7, 12, 5)
    for density in (0.2, 0.5, 0.9):
        cost = rng.standard_normal((3, 4))
        kept = [[n - int(p * n + 1e-9) for p in phi] for n in sizes]
        budget = int(density * sum(sizes) + 1e-9)
        totals = {v: sum(cost[i, p] for i, p in enumerate(v))
                  for v in itertools.product(range(4), repeat=3)
                  if sum(kept[i][p] for i, p in enumerate(v)) <= budget}  # fmt: skip
        params = {str(i): np.zeros(n) for i, n in enumerate(sizes)}
        got = allocate.rate_distortion(params, phi, dict(zip("012", cost, strict=True)), density)
        assert tuple(got.values()) == min(totals, key=totals.__getitem__)
    # Theirs: of seven, five for the second layer leave two, all of the first.
    cost = [np.array([0.0, 10.0, 20.0]), np.array([0.0, 1.0, 5.0])]
    found = allocate.rate_distortion(
        [np.zeros(2), np.zeros(10)], [0.0, 0.5, 1.0], cost, 2 / 3, authors=True
    )
    assert found == [0, 1]
    # 29 % of 100 weights are 29, though .29 * 100 is less.
    assert allocate.rate_distortion([np.zeros(100)], [0.0, 0.71], [np.zeros(2)], 0.29) == [1]
    with pytest.raises(ValueError, match="no levels of"):
        allocate.rate_distortion([np.zeros(9)], [0.0, 0.1], [np.zeros(2)], 0.5)
    with pytest.raises(ValueError, match="distortions must be 2 finite numbers"):
        allocate.rate_distortion([np.zeros(9)], [0.0, 0.1], [np.zeros(3)], 0.5)


@pytest.mark.fidelity
@pytest.mark.parametrize("name", ["evopress_trace", "evopress_bounded"])
def test_the_evolution_of_the_authors(name):
    record, h = records.load(name)
    draws = iter(record["draws"].tolist())
    low = h["lowest_level"]
    most = h["max_level"]
    limits = {"lowest": max(low, -most), "highest": min(low + h["levels"] - 1, most)}

    def randint(a, b):
        first, last, value = next(draws)
        assert (first, last) == (a, b)
        return value

    def batch(stage, randint):
        chosen, left, share = [], h["tokens"][stage], np.zeros(h["sequences"])
        while left > 0:
            i = randint(0, h["sequences"] - 1)
            if i not in chosen:
                chosen.append(i)
                share[i] = min(h["seq_len"], left)
                left -= h["seq_len"]
        return share / share.sum()

    def fitness(v, share):
        table = sum(record["table"][i, level - low] for i, level in enumerate(v))
        return table + v @ record["Q"] @ v + (share @ record["shift"]) @ v

    levels, trace = allocate.evolve(
        fitness, h["layers"], **limits, generations=h["generations"],
        offspring=h["offspring"], survivors=h["survivors"], batches=batch, randint=randint,
        bound=h["max_total_deviation"],
    )  # fmt: skip
    assert next(draws, None) is None
    assert np.array_equal(levels, record["parent"][-1])
    np.testing.assert_allclose(trace, record["fitness"], atol=1e-12)


def test_what_evolves_keeps_its_sum_and_bad_input():
    goal = np.array([3, -1, -3, 1])
    options = {"lowest": -3, "highest": 3, "generations": 12, "offspring": 6}
    levels, trace = allocate.evolve(lambda v, _: float(((v - goal) ** 2).sum()), 4, **options)
    assert np.array_equal(levels, goal)
    assert (np.diff(trace) <= 0).all()
    ends = {"lowest": [-3, 0, -3, -3], "highest": [3, 3, 3, 0]}  # Of each layer.
    levels, _ = allocate.evolve(
        lambda v, _: float(((v - goal) ** 2).sum()), 4, **{**options, **ends}
    )
    assert np.array_equal(levels, [3, 0, -3, 0])
    for change, text in (({"survivors": (4, 2)}, "survivors must end with 1"),
                         ({"offspring": 3}, "begin with at most offspring=3"),
                         ({"start": [9, 0, 0, 0]}, "start must be 4 levels"),
                         ({"lowest": 0, "highest": 0}, "leave nothing to move"),
                         ({"highest": [3, 3]}, "highest must be one level or 4, got"),
                         ({"start": [3] * 4}, "leave nothing to move"),
                         ({"bound": 0}, "different children")):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            allocate.evolve(lambda v, _: 0.0, 4, **{**options, **change})
    with pytest.raises(ValueError, match="fitness of all children of generation 0 is NaN"):
        allocate.evolve(lambda v, _: float("nan"), 4, **options)


def test_evopress_of_the_main_moves_weights_though_a_layer_has_few_left():
    sizes = [1920, 3000, 100]
    weights = [np.zeros(n, np.float32) for n in sizes]
    start = [int(d) for d in bilevel.masks.drop_counts(weights, 0.02, scope="layer")]
    assert sizes[2] - start[2] < 100 // 20  # Less than one step.

    def outputs(drops):  # The first layer is worth more than the others.
        return np.array([[0.0, (drops[0] - start[0]) / 50]])

    drops = sparse_methods._evopress(outputs, np.array([0]), weights, sizes, 0.02, 0)
    assert sum(drops) == sum(start)
    assert drops[0] < start[0]
    assert all(0 <= drop < n for drop, n in zip(drops, sizes, strict=True))
