"""Sparse training and calibrated pruning of an MLP 64-300-100-10 on scikit-learn's digits.

    python -m experiments.prune --config=configs/pruning/sparse_digits.py \
        --config.prune.method=rigl --config.prune.density=0.05

The methods are listed in ``configs/pruning/common.py``. N:M training takes a structure:
``--config.prune.method=sr_ste --config.prune.structure=2:4``; of calibrated pruning it may be one,
and ``--config.prune.length=1`` trains once more under its masks.
"""

from configs import common
from configs.pruning.common import sparse


def get_config(arg: str = ""):
    """Returns the config; ``arg`` is ``smoke`` for a run of seconds."""
    config = sparse()
    config.data.options = {"valid_fraction": 0.0}
    config.model.options = {"widths": (300, 100)}
    config.epochs = 40.0
    config.batch_size = 64
    config.optimizer.learning_rate = 0.05
    config.optimizer.weight_decay = 5e-4
    config.log_every = 110
    if "smoke" in common.words(arg, "smoke"):
        config.epochs = 3.0
        config.prune.rewind_epochs = 1.0
        config.prune.density = 0.5
    return config
