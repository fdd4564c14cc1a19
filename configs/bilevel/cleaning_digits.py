"""Hyper-cleaning of the digits that scikit-learn ships, half of the training labels flipped.

    python -m experiments.solve --config=configs/bilevel/cleaning_digits.py

Argument: a solver (penalty, f2sa, implicit, unrolled, soba), ``smoke``, or both with a comma.
Expected: MEASURED
"""

from configs.bilevel import common

SOLVERS = {
    "penalty": {
        "alpha": {"adam": 0.1},
        "beta": 0.8,
        "gamma": 0.3,
        "sigma": {"power": (0.3, -1 / 3)},
        "rho": 10.0,
        "inner_steps": 5,
    },
    "f2sa": {"alpha": 0.03, "gamma": 0.3, "lam": 5.0, "delta": 0.01, "x_step": {"adam": 0.1}},
    "implicit": {"alpha": {"adam": 0.1}, "gamma": 0.3, "inner_steps": 10, "linear_steps": 10},
    "unrolled": {"alpha": {"adam": 0.1}, "gamma": 0.3, "steps": 10},
    "soba": {"rho": 0.3, "gamma": {"adam": 0.1}},
}


def get_config(arg: str = ""):
    """Returns the config; ``arg`` is a solver, ``smoke`` for a run of a second, or both."""
    config = common.bilevel()
    config.problem.options = {"train": 700, "valid": 700, "noise": 0.5}
    config.steps = 500
    common.choose(config, arg, SOLVERS)
    return config
