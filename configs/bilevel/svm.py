"""Linear SVM, the penalty of each slack learned on validation data.

    python -m experiments.solve --config=configs/bilevel/svm.py --data_dir=DATA --seeds=20
    python -m experiments.solve --config=configs/bilevel/svm.py:penalty,fourclass --data_dir=DATA

Argument: a solver (lv_hba, penalty, implicit, unrolled), a data set (diabetes, fourclass,
breast_cancer, digits), ``flip`` (40 % of the training labels flipped: hyper-cleaning), ``smoke``,
with commas. LV-HBA solves the constrained form, the others the same problem with the slacks
eliminated. Over 20 seeds and at equal time:
``python -m experiments.reproduce --table=bilevel_svm --data_dir=DATA``; hyper-cleaning:
``--table=bilevel_cleaning``.
"""

from configs.bilevel import common

SOLVERS = {
    "lv_hba": {
        "upper_step": 0.01,
        "multiplier_step": 0.1,
        "lower_step": 0.01,
        "prox": 10.0,
        "multiplier_prox": 1.0,
        "penalty": {"power": (1.0, 0.3)},
    },
    "penalty": {
        "upper_step": {"adam": 0.1},
        "averaging": 0.8,
        "lower_step": 0.05,
        "upper_weight": {"power": (0.1, -1 / 3)},
        "prox": 1.0,
        "inner_steps": 5,
    },
    "implicit": {
        "upper_step": {"adam": 0.1},
        "lower_step": 0.05,
        "inner_steps": 10,
        "linear_steps": 10,
    },
    "unrolled": {"upper_step": {"adam": 0.1}, "lower_step": 0.05, "inner_steps": 20},
}
DATA = ("diabetes", "fourclass", "breast_cancer", "digits")


def get_config(arg: str = ""):
    """Returns the config; see the head of this file for ``arg``."""
    config = common.get_config()
    config.seed = 1
    config.steps = 2000
    config.log_every = 100
    words = common.choose(config, arg, SOLVERS, *DATA, "flip")
    data = [word for word in words if word in DATA] or ["diabetes"]
    config.problem.name = "svm"
    config.problem.options = {
        "data": data[0],
        "form": "constrained" if config.solver.name == "lv_hba" else "hinge",
        "flip": 0.4 if "flip" in words else 0.0,
    }
    return config
