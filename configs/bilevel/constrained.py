"""The LV-HBA paper's synthetic problems and a toy with an inequality, by LV-HBA.

    python -m experiments.solve --config=configs/bilevel/constrained.py:llc
    python -m experiments.solve --config=configs/bilevel/constrained.py:llsc --seeds=20
    python -m experiments.solve --config=configs/bilevel/constrained.py:toy --seeds=6

Argument: llc, llsc or toy, and ``smoke`` with a comma. The step sizes of llc are not the authors'
defaults, with which their script diverges; they come from a random search of 96 settings.
``problem.options.matrices`` of llsc takes an .npz with the authors' A, B, H, c, d.
Expected for llc: relative error 1.9e-4 (of x alone 5e-6) after 20000 steps, float64, from the
authors' start (deterministic; 2 cores of an AMD EPYC, CPU only).
"""

from configs.bilevel import common

SOLVERS = {
    "llc": {
        "name": "lv_hba",
        "alpha": 0.028,
        "beta": 0.02,
        "eta": 0.024,
        "gamma1": 10.0,
        "gamma2": 0.28,
        "c": {"power": (40.0, 0.4)},
    },
    "llsc": {
        "name": "lv_hba",
        "alpha": 0.02,
        "beta": 0.001,
        "eta": 0.1,
        "gamma1": 1.0,
        "gamma2": 1.0,
        "c": {"power": (1.0, 0.3)},
    },
    "toy": {
        "name": "lv_hba",
        "alpha": 0.01,
        "beta": 0.02,
        "eta": 0.03,
        "gamma1": 1.0,
        "gamma2": 1.0,
        "c": {"power": (1.0, 0.3)},
    },
}


def get_config(arg: str = ""):
    """Returns the config; see the head of this file for ``arg``."""
    config = common.get_config()
    config.x64 = True
    config.steps = 3000
    config.log_every = 100
    common.choose(config, arg, SOLVERS)
    config.problem.name = ([w for w in arg.split(",") if w in SOLVERS] or ["llc"])[0]
    if config.problem.name == "llc" and "smoke" not in arg:
        config.steps, config.log_every = 20000, 500
    if config.problem.name == "llsc":
        config.problem.options.matrices = ""  # An .npz; none: random matrices of that shape.
    return config
