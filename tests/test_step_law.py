"""The landscape of the Step Law's grids, on losses whose shape is known."""

import numpy as np
import pytest

from benchmarks import step_law


def grid(center, bump=0.0):
    """A bowl in both logarithms around a learning rate and 2^18 tokens; one run may be worse."""
    rates, tokens = center * 2.0 ** np.arange(-2, 3), 2.0 ** np.arange(16, 21)
    rows = [
        (r, t, 2 + 0.002 * (np.log2(r / center) ** 2 + (np.log2(t) - 18) ** 2))
        for r in rates
        for t in tokens
    ]
    rows = np.array(rows)
    rows[12, 2] += bump  # The middle of its row and of its column.
    return rows


def test_lines_of_a_bowl_and_of_one_with_a_bump():
    assert step_law.unimodal(grid(1e-3)) == [True] * 10
    # The best moves beside the bump, which is then .3 % above both of its neighbors.
    assert step_law.unimodal(grid(1e-3, bump=0.008)).count(False) == 2
    assert step_law.unimodal(grid(1e-3, bump=0.008), slack=0.01) == [True] * 10


def test_plateau_and_powers_are_those_of_the_losses():
    np.testing.assert_allclose(np.unique(step_law.plateau(grid(1e-3))), [5e-4, 1e-3, 2e-3])
    sizes = [(n, d) for n in (1e8, 4e8) for d in (1e9, 8e9)]
    grids = {(n, d): grid(5 * n**-0.6 * d**0.25) for n, d in sizes}
    found = step_law.landscape(grids)
    assert found["lines"] == 40
    assert found["unimodal"] == found["unimodal, none diverged"] == 1
    assert found["narrowest plateau"] == found["median plateau"] == pytest.approx(4)
    assert found["exponent of N"] == pytest.approx(-0.6)
    assert found["exponent of N, less the law's"] == pytest.approx(0.113)
    assert found["exponent of D"] == pytest.approx(0.25)
    assert found["exponent of D, less the law's"] == pytest.approx(-0.057)
