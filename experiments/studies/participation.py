"""Federated averaging with unknown, skewed participation: FedAvg and FedAU on quadratics."""

import numpy as np


def measure(
    seeds: int, clients: int, rounds: int, rate: float, cutoff: int
) -> list[dict[str, float]]:
    """Clients with |x - c_n|^2 / 2 take part with probabilities that depend on c_n.

    FedAvg averages the updates of those that take part. FedAU weighs them by the mean interval
    between a client's participations, at most ``cutoff`` rounds each, and divides by the number
    of all clients.

    Returns:
      For each seed the distance of the mean of the last half of the iterates to the mean of all
      c_n, and FedAU's over FedAvg's.
    """
    rows = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        centers = rng.normal(size=clients)
        chance = np.clip(0.5 + 0.4 * np.sign(centers) * rng.random(clients), 0.05, 1.0)
        row = {}
        for method in ("FedAvg", "FedAU"):
            draws, x, kept = np.random.default_rng(1000 + seed), 0.0, []
            weight, seen, waited = np.ones(clients), np.zeros(clients), np.zeros(clients)
            for i in range(rounds):
                present = draws.random(clients) < chance
                waited += 1
                done = present | (waited == cutoff)
                weight[done] = (weight * seen + waited)[done] / (seen[done] + 1)
                seen[done] += 1
                waited[done] = 0
                updates = rate * (centers - x)
                if method == "FedAvg":
                    x += updates[present].mean() if present.any() else 0.0
                else:
                    x += (weight * updates)[present].sum() / clients
                if i >= rounds // 2:
                    kept.append(x)
            row[method] = float(abs(np.mean(kept) - centers.mean()))
        rows.append({**row, "ratio": row["FedAU"] / row["FedAvg"]})
    return rows
