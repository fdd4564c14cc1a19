"""The comparison of ``pruning_equal_gradients`` on a small convolutional network.

python -m experiments.reproduce --table=pruning_equal_gradients_cnn
"""

from configs.tables import pruning_equal_gradients as mlp

ROWS = (
    "BiP",
    "global magnitude",
    "LAMP",
    "uniform+",
    "SparseGPT",
    "RD-DP",
    "random",
    "SET",
    "RigL",
    "GraNet",
    "STABLE-RPS",
)

TABLE = mlp.TABLE | {
    "title": "Pruning a small CNN at equal gradients",
    "protocol": "Convolutions of {model.options.widths} channels and a hidden layer of "
    "{model.options.hidden} on the 8x8 digits of scikit-learn, batches of {batch_size}, SGD with "
    "momentum {optimizer.momentum}, learning rate {optimizer.learning_rate}, {schedule.name} "
    "schedule, last epoch reported, a new 80/20 split for each seed. A training is {epochs} "
    "epochs, and all spend the gradients of three: random, SET, RigL and GraNet (with the "
    "densities of ERK) and STABLE-RPS (a pool of as many numbers as the masks keep) train three "
    "times as long; the others prune a model that was trained once, in two rounds of one training "
    "(global magnitude, LAMP, uniform+ with a dense first layer) or once and train it for two "
    "more; BiP takes as many. No method was tuned.",
    "base": {
        "model.name": "cnn",
        "model.options": {"widths": (16, 32), "hidden": 64, "impl": "im2col"},
        "epochs": 20.0,
    },
    "rows": {name: mlp.METHODS[name] for name in ROWS},
    "seeds": range(3),
    "notes": (),
    "notes_of": "",
    "scales": {"cpu": {"about": "2 CPU cores, no data needed", "minutes": 10}},
}
