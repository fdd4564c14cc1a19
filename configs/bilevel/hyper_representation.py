"""A body shared by 20 five-way tasks of the digits, with a linear head for each.

    python -m experiments.solve --config=configs/bilevel/hyper_representation.py

Argument: a solver (implicit, penalty, f2sa, unrolled), ``smoke``, or both with a comma. Test
accuracy after 150 steps (seed 0; 1 core of an AMD EPYC, CPU): implicit 96.7 %, penalty 95.2 %.
"""

from configs.bilevel import common

SOLVERS = {
    "implicit": {
        "upper_step": {"adam": 3e-3},
        "lower_step": 1.0,
        "inner_steps": 10,
        "linear_steps": 10,
    },
    "penalty": {
        "upper_step": {"adam": 3e-3},
        "averaging": 0.8,
        "lower_step": 0.5,
        "upper_weight": 0.1,
        "prox": 10.0,
        "inner_steps": 5,
    },
    "f2sa": {
        "penalized_step": 0.1,
        "lower_step": 1.0,
        "multiplier": 5.0,
        "multiplier_step": 0.01,
        "upper_step": {"adam": 3e-3},
    },
    "unrolled": {"upper_step": {"adam": 3e-3}, "lower_step": 1.0, "inner_steps": 10},
}


def get_config(arg: str = ""):
    """Returns the config; ``arg`` is a solver, ``smoke`` for a run of a second, or both."""
    config = common.get_config()
    config.problem.name = "hyper_representation"
    config.problem.options = {"data": "digits", "tasks": 20, "ways": 5, "shots": 5}
    config.steps = 500
    common.choose(config, arg, SOLVERS)
    return config
