"""One l2 penalty for each feature of a logistic regression.

    python -m experiments.solve --config=configs/bilevel/regularization.py
    python -m experiments.solve --config=configs/bilevel/regularization.py --data_dir=DATA \
        --config.problem.options.data=libsvm:a1a

Argument: a solver (implicit, penalty, f2sa, unrolled, soba), ``smoke``, or both with a comma.
"""

from configs.bilevel import common

SOLVERS = {
    "implicit": {
        "upper_step": {"adam": 0.1},
        "lower_step": 0.3,
        "inner_steps": 10,
        "linear_steps": 10,
    },
    "penalty": {
        "upper_step": {"adam": 0.1},
        "averaging": 0.8,
        "lower_step": 0.2,
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
    "unrolled": {"upper_step": {"adam": 0.1}, "lower_step": 0.3, "inner_steps": 20},
    "soba": {"lower_step": 0.3, "upper_step": {"adam": 0.05}},
}


def get_config(arg: str = ""):
    """Returns the config; ``arg`` is a solver, ``smoke`` for a run of a second, or both."""
    config = common.get_config()
    config.problem.name = "regularization"
    config.problem.options = {"data": "digits", "train": 700, "valid": 700}
    config.steps = 400
    common.choose(config, arg, SOLVERS)
    return config
