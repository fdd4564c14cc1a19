"""The run behind the REX table of ResNet-20 on CIFAR-10.

python -m experiments.train --config=configs/rex/resnet20.py --data_dir=DATA
python -m experiments.reproduce --table=rex_cifar10_sgdm --data_dir=DATA
"""

from configs import common


def get_config(arg: str = ""):
    """Returns the config; ``arg`` is ``smoke`` for two steps on digits."""
    config = common.supervised()
    config.data.name = "cifar10"
    config.data.augment = True
    config.model.name = "resnet20"
    config.optimizer.name = "sgd"
    config.optimizer.momentum = 0.9
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 1e-4
    config.schedule.name = "rex"
    config.batch_size = 128
    config.epochs = 300.0
    config.eval_every = 10**9  # At the end only.
    if "smoke" in common.words(arg, "smoke"):
        config.data.name = "digits"
        config.batch_size = 32
        config.steps = 2
        config.log_every = 1
    return config
