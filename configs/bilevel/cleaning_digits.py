"""Hyper-cleaning of the digits that scikit-learn ships, half of the training labels flipped.

    python -m experiments.solve --config=configs/bilevel/cleaning_digits.py

Argument: a solver (penalty, f2sa, implicit, unrolled, soba), ``smoke``, or both with a comma.
Measured after 500 steps (seed 0; 2 cores of an AMD EPYC, CPU, shared), test accuracy and
AUC of the weights: penalty 93.6 %, .963; f2sa 95.0 %, .982; implicit 93.9 %, .978; unrolled
93.9 %, .989; soba 92.8 %, .969.
"""

from configs.bilevel import common

SOLVERS = {
    "penalty": {
        "upper_step": {"adam": 0.1},
        "averaging": 0.8,
        "lower_step": 0.3,
        "upper_weight": {"power": (0.3, -1 / 3)},
        "prox": 10.0,
        "inner_steps": 5,
    },
    "f2sa": {
        "penalized_step": 0.03,
        "lower_step": 0.3,
        "multiplier": 5.0,
        "multiplier_step": 0.01,
        "upper_step": {"adam": 0.1},
    },
    "implicit": {
        "upper_step": {"adam": 0.1},
        "lower_step": 0.3,
        "inner_steps": 10,
        "linear_steps": 10,
    },
    "unrolled": {"upper_step": {"adam": 0.1}, "lower_step": 0.3, "inner_steps": 10},
    "soba": {"lower_step": 0.3, "upper_step": {"adam": 0.1}},
}


def get_config(arg: str = ""):
    """Returns the config; ``arg`` is a solver, ``smoke`` for a run of a second, or both."""
    config = common.get_config()
    config.problem.options = {"train": 700, "valid": 700, "noise": 0.5}
    config.steps = 500
    common.choose(config, arg, SOLVERS)
    return config
