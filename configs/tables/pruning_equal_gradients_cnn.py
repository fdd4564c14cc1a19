"""The comparison of ``pruning_equal_gradients`` on a small convolutional network.

python -m experiments.reproduce --table=pruning_equal_gradients_cnn
"""

from configs.tables import pruning_equal_gradients as mlp

ROWS = (
    "BiP",
    "global magnitude",
    "LAMP",
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
    "(global magnitude, LAMP) or once and train it for two more; BiP takes as many. No method was "
    "tuned.",
    "base": {
        "model.name": "cnn",
        "model.options": {"widths": (16, 32), "hidden": 64, "impl": "im2col"},
        "epochs": 20.0,
    },
    "rows": {name: mlp.METHODS[name] for name in ROWS},
    "seeds": range(3),
    "notes_of": "69aea0a0",
    "notes": (
        "Of 18 differences to BiP none is significant; what follows is about means of three seeds.",
        "At 98 % GraNet, STABLE-RPS and a global cut by magnitude in two rounds lead.",
        "SparseGPT, random masks and SET are near chance at 98 %, where all but a few hundred "
        "weights are gone; RigL's and BiP's seeds differ by ten points and more there.",
    ),
    "scales": {"cpu": {"about": "2 CPU cores, no data needed", "minutes": 10}},
}
