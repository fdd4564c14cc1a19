"""The run behind the REX tables on digits, MNIST and Fashion-MNIST: an MLP.

python -m experiments.train --config=configs/rex/mlp.py --config.schedule.name=rex
python -m experiments.reproduce --table=rex_digits_sgdm
"""

from configs import common


def get_config(arg: str = ""):
    """Returns the config; ``arg`` is ``fashion`` or ``mnist`` for those sets, or ``smoke``."""
    config = common.supervised()
    config.optimizer.name = "sgd"
    config.optimizer.momentum = None
    config.optimizer.learning_rate = 0.1
    config.model.options = {"widths": (128, 64)}
    config.schedule.name = "rex"
    config.eval_every = 10**9  # At the end only.
    config.log_every = 200
    config.epochs = 100.0
    sets = {"fashion": "fashion_mnist", "mnist": "mnist"}
    words = common.words(arg, *sets, "smoke")
    for word in sets.keys() & words:
        config.data.name = sets[word]
        config.batch_size = 128
        config.epochs = 10.0
    if "smoke" in words:
        config.epochs = 1.0
        config.log_every = 10
    return config
