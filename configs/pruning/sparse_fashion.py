"""Sparse training and calibrated pruning of an MLP 784-128-64-10 on a tenth of Fashion-MNIST.

    python -m experiments.prune --config=configs/pruning/sparse_fashion.py --data_dir=DATA \
        --config.prune.method=granet_sparse --config.prune.density=0.01

6,000 images to train on and 10,000 to test on, ten epochs, for comparisons that take seconds. The
methods are listed in ``configs/pruning/common.py``.
"""

from configs import common
from configs.pruning.common import sparse


def get_config(arg: str = ""):
    """Returns the config; ``arg`` is ``smoke`` for a run of seconds on the embedded digits."""
    config = sparse()
    config.data.name = "fashion_mnist"
    config.data.options = {"valid_fraction": 0.9}  # Nine tenths stay unused.
    config.model.options = {"widths": (128, 64)}
    config.epochs = 10.0
    config.batch_size = 100
    config.optimizer.weight_decay = 5e-4
    config.prune.every_epochs = 1 / 3
    config.prune.split_by_seed = False  # The test set is given.
    config.log_every = 60
    if "smoke" in common.words(arg, "smoke"):
        config.data.name = "digits"
        config.data.options = {"valid_fraction": 0.0}
        config.epochs = 3.0
        config.prune.rewind_epochs = 1.0
    return config
