"""Lottery tickets of LeNet-300-100 on MNIST, and the control with new initial weights.

python -m experiments.reproduce --table=pruning_tickets --data_dir=DATA
"""

ROUNDS = (3, 7, 12, 15, 18)

TABLE = {
    "title": "Lottery tickets: LeNet-300-100 on MNIST",
    "main": "prune",
    "config": "configs/pruning/mnist_lenet300.py",
    "protocol": (
        "Gaussian Glorot initialization, Adam at {optimizer.learning_rate} throughout, batches of "
        "{batch_size} from 55,000 images. Each round prunes a fifth of each layer's smallest "
        "weights, a tenth of the last "
        "layer's, and starts again from the initial weights; with new weights, the last mask is "
        "trained from another initialization. 18,320 iterations a round where the paper has "
        "50,000, accuracy at their end; columns are the share of the weights that is kept."
    ),
    "base": {"prune.through": tuple(0.8**r for r in ROUNDS)},
    "rows": {
        "dense": {"prune.method": "dense"},
        "IMP": {"prune.method": "imp"},
        "IMP's masks, new weights": {"prune.method": "imp_reinit"},
    },
    "setting": "density (% of the weights that are kept)",
    "columns": {
        # The last layer keeps 0.9**r.
        f"{100 * (0.8**r * 265_200 + 0.9**r * 1_000) / 266_200:.1f} %": {"prune.density": 0.8**r}
        for r in ROUNDS
    },
    "seeds": range(3),
    "metric": "test/accuracy",
    "select": "test/accuracy",
    "unit": "%",
    "digits": 2,
    "also": {"seconds": "seconds"},
    "notes_of": "a52d2940",
    "notes": (
        "The paper's claim holds: tickets of 1.9 % of the weights are as good as the dense one; "
        "with new weights the same masks fall behind, the more the sparser they are, significantly "
        "so at 3.6 and 1.9 %. Tickets of 3.6 to 21 % have better means than the dense one, which "
        "three seeds do not make significant.",
    ),
    "plots": ("columns",),
    "scales": {"cpu": {"about": "one CPU core, needs MNIST", "minutes": 14}},
}
