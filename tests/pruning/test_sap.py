"""Sparsity-informed adaptive pruning against the authors' rounds."""

import jax
import numpy as np
import pytest
import sparse_records as records

from bilevel import masks as masks_lib
from bilevel.pruning import sap_masks


@pytest.mark.fidelity
@pytest.mark.parametrize(("scope", "kept"), [
    ("neuron", [162, 158, 157, 157, 157]), ("layer", [158, 146, 135, 130, 125]),
    ("global", [150, 134, 124, 117, 111]),
])  # fmt: skip
def test_rounds_of_the_authors(scope, kept):
    record, h = records.load(f"sap_{scope}")
    _, p, q, eta, gamma = h["mode"]
    torch = masks_lib.Cut(input_axis=1, output_axis=0)
    with jax.enable_x64(True):
        for r in range(h["rounds"]):
            old = [record[f"mask{i}"][r].astype(bool) for i in range(3)]
            w = [record[f"w{i}"][r] for i in range(3)]
            options = {"p": p, "q": q, "eta": eta, "gamma": gamma, "scope": scope, "cut": torch}
            new = sap_masks(old, w, floats=True, **options)
            for i in range(3):
                assert np.array_equal(new[i], record[f"mask{i}"][r + 1].astype(bool))
            assert sum(int(m.sum()) for m in new) == kept[r]
            # Whole numbers prune no fewer, and at most one more in each unit.
            more = sap_masks(old, w, **options)
            units = {"global": 1, "layer": 3, "neuron": 21}[scope]
            assert 0 <= kept[r] - sum(int(m.sum()) for m in more) <= units


def test_equal_weights_stay_and_bad_input_is_named():
    ones = {"w": np.ones((4, 3), bool)}
    assert sap_masks(ones, {"w": np.full((4, 3), 0.1)})["w"].all()
    assert sap_masks(ones, {"w": np.zeros((4, 3))})["w"].all()
    for options, text in (
        ({"p": 2.0}, "p must"),
        ({"q": 0.5}, "q must"),
        ({"eta": -1.0}, "eta"),
        ({"beta": 0.0}, "beta must"),
        ({"scope": "row"}, "scope must be"),
    ):
        with pytest.raises(ValueError, match=text):
            sap_masks(ones, {"w": np.ones((4, 3))}, **options)
    with pytest.raises(ValueError, match=r"masks do not fit .* \(4, 3\) for w of shape \(3, 4\)"):
        sap_masks(ones, {"w": np.ones((3, 4))})
    with pytest.raises(ValueError, match="params must be numbers: w has 12 NaN"):
        sap_masks(ones, {"w": np.full((4, 3), np.nan)})
