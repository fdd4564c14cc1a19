"""Hyper-cleaning of CIFAR-10 with the labels that people gave (CIFAR-N), in minibatches.

    python -m experiments.solve --config=configs/bilevel/cleaning_cifar_n.py --data_dir=DATA

DATA holds ``cifar-10-batches-bin/`` and ``cifar-n/cifar10n.npz`` (noisylabels.com, CC BY-NC 4.0).
The label set is ``problem.options.noise``: worse_label (40 % wrong), aggre_label, random_label1...
Argument: a solver (f2sa, soba, unrolled), ``smoke``, with commas. Measured with soba, 500 steps
on 4000 training and 4000 validation samples (``problem.options``; seed 0; 1 core of an AMD EPYC,
CPU): AUC of the weights .655, test accuracy 39.0 %.
"""

from configs.bilevel import common

SOLVERS = {
    "f2sa": {
        "penalized_step": 0.005,
        "lower_step": 0.05,
        "multiplier": 5.0,
        "multiplier_step": 0.005,
        "inner_steps": 5,
        "upper_step": {"adam": 0.05},
    },
    "soba": {"lower_step": 0.05, "upper_step": {"adam": 0.05}},
    "unrolled": {"upper_step": {"adam": 0.05}, "lower_step": 0.05, "inner_steps": 5},
}


def get_config(arg: str = ""):
    """Returns the config; see the head of this file for ``arg``."""
    config = common.get_config()
    config.problem.options = {
        "data": "cifar10",
        "noise": "worse_label",
        "hidden": (256,),
        "train": 40000,
        "valid": 5000,
        "weights": True,
    }
    config.batch_size = 512
    config.steps = 5000
    config.log_every = 100
    config.eval_every = 500
    if "smoke" in common.choose(config, arg, SOLVERS):
        config.problem.options.train = config.problem.options.valid = 600
    return config
