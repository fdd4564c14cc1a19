"""Digits with a model by argument; what ``benchmarks/loop.py`` times as a population.

python -m experiments.train --config=configs/loop_population.py:logistic --seeds=8
"""

from configs import common


def get_config(arg: str = "logistic"):
    """Returns the config; ``arg`` is the model's name, or ``smoke``."""
    config = common.supervised()
    config.model.name = "logistic" if arg == "smoke" else arg
    config.epochs = 1.0 if arg == "smoke" else 20.0
    config.log_every = 100
    config.eval_every = 400
    return config
