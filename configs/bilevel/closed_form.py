"""Problems P1-P5, whose hyper-objective is known exactly.

    python -m experiments.solve --config=configs/bilevel/closed_form.py:p3,penalty

Argument: a problem (p1, p2a, p2b, p3, p4, p5), ``noisy`` (p1, one of 16 samples at a time), a
solver (penalty, f2sa, implicit, unrolled; soba, saba for p1), ``smoke``, with commas.
"""

from configs.bilevel import common

SOLVERS = {
    "penalty": {
        "upper_step": 0.2,
        "averaging": 0.8,
        "lower_step": 0.05,
        "upper_weight": {"power": (1.0, -1 / 3)},
        "prox": 0.5,
        "inner_steps": 5,
    },
    "f2sa": {
        "penalized_step": {"power": (0.1, -1 / 3, 10)},
        "lower_step": 0.05,
        "step_ratio": 1.0,
    },
    "implicit": {
        "linear_solver": "normal_cg",
        "upper_step": 0.1,
        "lower_step": 0.05,
        "inner_steps": 20,
        "linear_steps": 20,
        "linear_step": 0.05,
    },
    "unrolled": {"upper_step": 0.1, "lower_step": 0.05, "inner_steps": 50},
    "soba": {},
    "saba": {"lower_step": 0.1, "upper_step": 0.1},
}
PROBLEMS = ("p1", "p2a", "p2b", "p3", "p4", "p5")


def get_config(arg: str = ""):
    """Returns the config; see the head of this file for ``arg``."""
    config = common.get_config()
    config.x64 = True
    config.steps = 2000
    words = common.choose(config, arg, SOLVERS, *PROBLEMS, "noisy")
    config.problem.name = ([word for word in words if word in PROBLEMS] or ["p1"])[0]
    if "noisy" in words:
        config.problem.options = {"noisy": True}
        config.batch_size = 1
    return config
