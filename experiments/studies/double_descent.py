"""The peak of the test error where features are as many as samples, for short and long training."""

import numpy as np

from experiments.studies import _networks as nets

WIDTHS = (50, 100, 200, 300, 400, 800, 2000)


def measure(seeds: int, samples: int, steps: int) -> list[dict[str, float]]:
    """Least squares on random ReLU features of digits by gradient descent, in closed form.

    Args:
      seeds: Number of seeds.
      samples: Number of training samples; the peak is expected at as many features.
      steps: Steps of gradient descent from zero at the inverse of the largest curvature.

    Returns:
      For each seed the test error (mean square) at each width, the training error at the peak's
      width, and the peak: the error there over the larger of those at the ends.
    """
    rows = []
    for seed in range(seeds):
        parts, rng = nets.load(seed), np.random.default_rng(seed)
        x, labels = parts["train"][0][:samples], parts["train"][1][:samples]
        y, tested = np.eye(10)[labels], np.eye(10)[parts["test"][1]]
        row = {}
        for width in WIDTHS:
            w = rng.normal(size=(x.shape[1], width)) / np.sqrt(x.shape[1])
            train, test = np.maximum(x @ w, 0), np.maximum(parts["test"][0] @ w, 0)
            # With A = U S V', T steps of size 1 / s_1^2 give V (1 - (1 - S^2/s_1^2)^T) / S U' y.
            u, s, vt = np.linalg.svd(train, full_matrices=False)
            reached = -np.expm1(steps * np.log1p(-np.minimum((s / s[0]) ** 2, 1 - 1e-16)))
            weights = vt.T @ ((reached / s)[:, None] * (u.T @ y))
            row[f"test {width}"] = float(((test @ weights - tested) ** 2).mean())
            row[f"train {width}"] = float(((train @ weights - y) ** 2).mean())
        ends = max(row[f"test {WIDTHS[0]}"], row[f"test {WIDTHS[-1]}"])
        rows.append({**row, "peak": row[f"test {samples}"] / ends})
    return rows
