"""MLP 64-300-100-10 on scikit-learn's digits: no download.

    python -m experiments.prune --config=configs/pruning/digits.py --config.prune.method=bip \
        --config.prune.density=0.02

At 98 % sparsity, test accuracy of seeds 0, 1, 2: BiP 97.2, 98.1, 98.1; IMP 96.4, 96.7, 96.7; OMP
43, 21, 41 (2 cores of an AMD EPYC, CPU only).
"""

from configs import common
from configs.pruning.common import pruning


def get_config(arg: str = ""):
    """Returns the config; ``arg`` is ``smoke`` for a run of seconds."""
    config = pruning()
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
