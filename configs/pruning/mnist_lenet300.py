"""LeNet-300-100 on MNIST: the setting of the lottery-ticket paper, in two fifths of its iterations.

    python -m experiments.prune --config=configs/pruning/mnist_lenet300.py --data_dir=DATA

IMP to 3.6 % of the weights: Gaussian Glorot initialization, Adam at 1.2e-3 throughout, batches of
60 from 55,000 images, a fifth of each layer pruned in a round (a tenth of the last layer), all
weights back to their initial values. The paper trains each round for 50,000 iterations, this config
for 20 epochs, 18,320 iterations. Expected (seed 0): 97.95 % dense, 98.21 % pruned; the same mask on
new initial weights (``--config.prune.method=imp_reinit``) 97.30 % (one core of an AMD EPYC, CPU
only, 3 minutes).
"""

from configs import common
from configs.pruning.common import pruning


def get_config(arg: str = ""):
    """Returns the config; ``arg`` is ``smoke`` for a run of seconds."""
    config = pruning()
    config.data.name = "mnist"
    config.data.options = {"valid_fraction": 1 / 12}
    config.model.options = {"widths": (300, 100), "init": "glorot_normal"}
    config.epochs = 20.0
    config.batch_size = 60
    config.optimizer = {"name": "adam", "learning_rate": 1.2e-3}
    config.schedule.name = "constant"
    config.prune.method = "imp"
    config.prune.density = 0.8**15
    config.prune.rewind_epochs = 0.0
    config.prune.allocator = "lottery"
    config.log_every = 458
    if "smoke" in common.words(arg, "smoke"):
        config.epochs = 0.5
        config.prune.density = 0.64
    return config
