"""The LV-HBA paper's synthetic problems and a toy with an inequality, by LV-HBA.

    python -m experiments.solve --config=configs/bilevel/constrained.py:llc
    python -m experiments.solve --config=configs/bilevel/constrained.py:llsc --seeds=20
    python -m experiments.solve --config=configs/bilevel/constrained.py:toy --seeds=6

Argument: llc, llsc or toy, and ``smoke`` with a comma. The step sizes of llc are not the authors'
defaults, with which their script diverges, but those that ``bilevel.diagnose`` calls stable.
``problem.options.matrices`` of llsc takes an .npz with the authors' A, B, H, c, d.
Expected: MEASURED
"""

from configs.bilevel import common

SOLVERS = {
    "llc": {
        "name": "lv_hba",
        "alpha": 0.008,
        "beta": 0.02,
        "eta": 0.01,
        "gamma1": 10.0,
        "gamma2": 0.1,
        "c": {"power": (1.0, 0.3)},
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
    config = common.bilevel()
    config.x64 = True
    config.steps = 3000
    common.choose(config, arg, SOLVERS)
    config.problem.name = ([w for w in arg.split(",") if w in SOLVERS] or ["llc"])[0]
    if config.problem.name == "llsc":
        config.problem.options.matrices = ""  # An .npz; none: random matrices of that shape.
    return config
