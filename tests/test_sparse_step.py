"""Products of stored rows are those of the masked kernel; the page of their costs is its JSON's."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks import _sparse_layers, sparse_step

PAGE = Path(__file__).parents[1] / "results" / "sparse" / "step.json"


@pytest.mark.parametrize("block", [1, 2])
def test_rows_multiply_as_the_masked_kernel_does(block):
    rng = np.random.default_rng(0)
    mask = np.kron(rng.random((4, 3)) < 0.4, np.ones((2, 2), bool))[:7, :5]  # Sides are odd.
    w = rng.standard_normal(mask.shape).astype(np.float32)
    rows, values = _sparse_layers.rows_of(w, mask, block)
    assert np.array_equal(_sparse_layers.dense(rows, values, w.shape), w * mask)
    assert values.size < w.size

    def blocks(x, many):
        return np.pad(x, ((0, many * block - len(x)), (0, 0))).reshape(many, block, -1)

    x, dy = (rng.standard_normal((n, 3)).astype(np.float32) for n in w.shape)
    inputs, outputs = rows.places.shape[1], rows.index.shape[1]

    @jax.jit
    def both(values, x, dy):
        y, pull = jax.vjp(lambda v, x: _sparse_layers.multiply(v, x, rows), values, x)
        return y, *pull(dy)

    y, dv, dx = both(values, blocks(x, inputs), blocks(dy, outputs))
    np.testing.assert_allclose(y.reshape(-1, 3)[:5], (w * mask).T @ x, atol=1e-5)
    np.testing.assert_allclose(dx.reshape(-1, 3)[:7], (w * mask) @ dy, atol=1e-5)
    assert not np.asarray(dv)[~np.asarray(rows.live)].any()  # Nothing is learned where rows end.
    assert not rows.live.all()
    found = _sparse_layers.dense(rows, dv, w.shape)
    np.testing.assert_allclose(found[mask], (x @ dy.T)[mask], atol=1e-5)


def test_the_page_is_its_json_and_says_what_was_missed():
    results = json.loads(PAGE.read_text(encoding="utf-8"))
    assert sparse_step.page(results) == PAGE.with_suffix(".md").read_text(encoding="utf-8")
    assert max(row["difference of losses"] for row in results["sparse steps"]) < 1e-4
    row = {**results["sparse steps"][0], "kept": 0.02}
    for share, shown in ((0.5, "| 0.50 |"), (0.51, "| 0.51, missed |")):
        text = sparse_step.page({**results, "sparse steps": [{**row, "rows / dense": share}]})
        assert shown in text
    for row in results["exports"]:  # A file has a few hundred bytes of headers.
        assert row["says"] <= row["file"] < row["says"] + 1e-3
