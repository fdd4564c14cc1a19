"""ResNet-20 on CIFAR-10: dense training, then BiP, in the settings of the BiP paper.

    python -m experiments.prune --config=configs/pruning/cifar10_resnet20.py --data_dir=DATA
    python -m experiments.prune --config=configs/pruning/cifar10_resnet20.py:smoke --data_dir=DATA

The first is for an accelerator (not run here): both stages have the 100 epochs of the paper's BiP
(its dense training has 200) and the decay of its dense training (5e-4; its BiP has 1e-4).
The second makes 23 dense steps and 23 of BiP, in two minutes on one core of an AMD EPYC, CPU only;
with ``--config.prune.structure=filter --config.prune.density=0.5`` it leaves a model half as large:
test accuracy 22.3 % before, 20.9 % after, 20.2 % of the smaller model, which loses the offsets of
the pruned filters too.
"""

from configs import common
from configs.pruning.common import pruning


def get_config(arg: str = ""):
    """Returns the config; ``arg`` is ``smoke`` for a few steps, some minutes on a CPU."""
    config = pruning()
    config.data.name = "cifar10"
    config.data.augment = True
    config.data.options = {"valid_fraction": 0.0}
    config.model = {"name": "resnet20", "options": {}}
    config.epochs = 100.0
    config.batch_size = 128
    config.optimizer.weight_decay = 5e-4
    config.prune.density = 0.2
    config.prune.mask_learning_rate = 0.1
    config.prune.split_by_seed = False  # The test set is given.
    config.log_every = 195
    if "smoke" in common.words(arg, "smoke"):
        config.epochs = 0.06
        config.prune.rewind_epochs = 0.02
        config.log_every = 4
    return config
