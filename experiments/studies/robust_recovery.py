"""Robust matrix recovery by the subgradient method from a small start, at true and excess rank."""

import numpy as np


def measure(
    seeds: int, searched: int, rank: int, size: int, samples: int, outliers: float, steps: int
) -> list[dict[str, float]]:
    """Minimizes the mean of |<A_i, U U'> - b_i| where a share of the b_i is garbage.

    Args:
      seeds: Number of problems.
      searched: Columns of U.
      rank: Of the matrix that is to be found.
      size: Its side.
      samples: Number of measurements.
      outliers: Share of them with large errors.
      steps: Steps, whose sizes fall geometrically to 1e-4 of the first.

    Returns:
      For each seed the relative error at the end, and the step at which it falls below a tenth.
    """
    rows = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        q, _ = np.linalg.qr(rng.normal(size=(size, rank)))
        truth = q @ q.T
        a = rng.normal(size=(samples, size * size))
        b = a @ truth.ravel()
        wrong = rng.random(samples) < outliers
        b[wrong] += 10 * rng.normal(size=wrong.sum())
        u = 1e-3 * np.eye(size)[:, :searched]
        below, error = float(steps), np.inf
        for i in range(steps):
            signs = np.sign(a @ (u @ u.T).ravel() - b) / samples
            gradient = (signs @ a).reshape(size, size)
            u = u - 0.2 * 1e-4 ** (i / steps) * (gradient + gradient.T) @ u
            error = np.linalg.norm(u @ u.T - truth) / np.linalg.norm(truth)
            if error < 0.1 and below == steps:
                below = float(i)
        rows.append({"error": float(error), "below": below})
    return rows
