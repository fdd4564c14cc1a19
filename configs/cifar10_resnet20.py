"""ResNet-20 on CIFAR-10 with SGD, padded, cropped and mirrored images.

    python -m experiments.train --config=configs/cifar10_resnet20.py --data_dir=DATA
    python -m experiments.train --config=configs/cifar10_resnet20.py --data_dir=DATA \
        --config.epochs=2

DATA/cifar-10-batches-bin holds the binary version of CIFAR-10.
The first command is the usual protocol, 160 epochs, for an accelerator (not run here).
Expected of the second (seed 0): loss from 2.30 to 1.04 on the test set, 62.5 % test accuracy, about
140 examples a second on 2 cores of an AMD EPYC, CPU only.
"""

from configs import common


def get_config(arg: str = ""):
    """Returns the config; ``arg`` is ``smoke`` for three steps on the embedded digits."""
    config = common.supervised()
    config.data.name = "cifar10"
    config.data.augment = True
    config.model = {"name": "resnet20", "options": {}}
    config.batch_size = 128
    config.epochs = 160.0
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 5e-4
    config.log_every = 16
    if "smoke" in common.words(arg, "smoke"):
        config.data.name = "digits"
        config.steps = 3
        config.log_every = 1
    return config
