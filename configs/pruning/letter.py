"""MLP 16-300-100-26 on LIBSVM's letter.scale.

    python -m experiments.prune --config=configs/pruning/letter.py --data_dir=DATA \
        --config.prune.method=bip --config.prune.density=0.02

Expected: 88.1 ± 0.8 % test accuracy at 98 % sparsity (5 seeds, `results/pruning_letter.md`).
"""

from configs import common
from configs.pruning.common import pruning


def get_config(arg: str = ""):
    """Returns the config; ``arg`` is ``smoke`` for a run of seconds."""
    config = pruning()
    config.data.name = "libsvm:letter.scale"
    config.data.options = {"valid_fraction": 0.0, "standardize": True}
    config.model.options = {"widths": (300, 100)}
    config.epochs = 30.0
    config.batch_size = 128
    config.log_every = 93
    if "smoke" in common.words(arg, "smoke"):
        config.epochs = 3.0
    return config
