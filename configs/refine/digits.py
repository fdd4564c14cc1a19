"""A schedule refined from the gradient norms of a pilot, on the digits of scikit-learn.

    python -m experiments.refine --config=configs/refine/digits.py

A pilot with linear decay at each learning rate, refinement from the norms of the best one, then
five seeds of each schedule at each learning rate. About a minute; the result is in
`results/refine/digits`: test loss .084 ± .017 against .113 ± .026 of linear, .118 ± .035 of cosine.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = ""):
    """Returns the config; ``arg`` is ``smoke`` for a run of seconds."""
    train = common.supervised()
    train.model.options = {"widths": (128, 64)}
    train.optimizer.name = "sgd"
    train.optimizer.momentum = 0.9
    train.epochs = 30.0
    train.eval_every = 10**9  # At the end only.
    train.log_every = 100
    config = ConfigDict(
        {
            "train": train,
            "norm": "l2",  # Of the recorded gradients: l2 for SGD, l1 for Adam.
            "tau": 0.1,
            "method": "closed_form",
            "learning_rates": (0.01, 0.03, 0.1, 0.3, 1.0),
            "pilot_seed": 1000,
            "seeds": (0, 1, 2, 3, 4),
            "compare": ("linear", "cosine", "rex"),  # Beside the refined schedule.
            "select": "valid/loss",  # Chooses learning rates; the smallest.
        }
    )
    if "smoke" in common.words(arg, "smoke"):
        train.epochs = 2.0
        train.log_every = 10
        config.learning_rates = (0.1, 0.3)
        config.seeds = (0, 1)
        config.compare = ("linear",)
    return config
