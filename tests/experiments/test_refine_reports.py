"""What the refinement main chooses and reports, from runs that are made up."""

import numpy as np

from configs.refine import digits
from experiments import refine
from experiments.common.runs import Result


def test_rates_are_compared_by_their_means_over_seeds(monkeypatch, tmp_path):
    config = digits.get_config()
    config.learning_rates, config.seeds = (0.1, 0.2, 0.4), (0, 1)
    config.compare, config.select = ("cosine",), "valid/loss"
    # The smallest loss of all is at 0.1, the smallest mean at 0.2; at 0.4 one run diverged.
    losses = {0.1: (1.0, 5.0), 0.2: (2.0, 2.5), 0.4: (0.5, np.nan)}

    def train_all(configs, workdir, data_dir):
        finals = []
        for c in configs:
            loss = losses[round(c.optimizer.learning_rate, 3)][c.seed]
            shift = 0.1 * (c.schedule.name == "cosine")
            numbers = {"valid/loss": loss + shift, "test/loss": 2 * loss, "test/accuracy": 0.25}
            finals.append(Result(numbers, []))
        return configs, finals

    monkeypatch.setattr(refine, "train_all", train_all)
    chosen = refine.compare(config, [1.0, 0.5], tmp_path, None)
    assert {label: rate for label, (rate, _) in chosen.items()} == {"refined": 0.2, "cosine": 0.2}
    assert [f["valid/loss"] for f in chosen["cosine"][1]] == [2.1, 2.6]
    text = refine.report(config, chosen, "made up", (0.1, 1.0))
    # Mean and deviation of the sample; the chosen rate is no edge of the grid.
    assert "| refined | 0.2 | 2.2500 ± 0.3536 | 4.5000 ± 0.7071 | 25.00 ± 0.00 |" in text
