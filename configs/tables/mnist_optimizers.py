"""Every optimizer of the package beside AdamW and SGD: LeNet-300-100 on MNIST.

python -m experiments.reproduce --table=mnist_optimizers --data_dir=DATA
"""

ADAPTIVE = {"optimizer.learning_rate": [3e-4, 1e-3, 3e-3, 1e-2, 3e-2]}
SIGN = {"optimizer.learning_rate": [3e-5, 1e-4, 3e-4, 1e-3, 3e-3]}
SGD = {"optimizer.learning_rate": [1e-2, 3e-2, 1e-1, 3e-1, 1.0]}
DECOUPLED = {"optimizer.weight_decay": [0.0, 0.1, 1.0]}
L2 = {"optimizer.weight_decay": [0.0, 1e-3, 1e-2]}

TABLE = {
    "title": "Lion, AdamP, SGDP, diffGrad against AdamW and SGD: LeNet-300-100 on MNIST",
    "protocol": (
        "LeNet-300-100 on MNIST, {epochs} epochs of batches of {batch_size}, {schedule.name} "
        "schedule; weight decay is decoupled for AdamW, AdamP, Lion and SGDP and L2 for SGD "
        "(momentum 0.9) and diffGrad; five learning rates and three decays for each method, in the "
        "range of its kind."
    ),
    "config": "configs/mnist_lenet300.py",
    "base": {"epochs": 3.0, "eval_every": 1000000},
    "rows": {
        "AdamW": {"optimizer.name": "adamw"},
        "AdamP": {"optimizer.name": "adamp"},
        "diffGrad": {"optimizer.name": "diffgrad"},
        "Lion": {"optimizer.name": "lion"},
        "SGDM": {"optimizer.name": "sgd", "optimizer.momentum": 0.9},
        "SGDP": {"optimizer.name": "sgdp", "optimizer.momentum": 0.9},
    },
    "grid": {
        "AdamW": ADAPTIVE | DECOUPLED,
        "AdamP": ADAPTIVE | DECOUPLED,
        "diffGrad": ADAPTIVE | L2,
        "Lion": SIGN | DECOUPLED,
        "SGDM": SGD | L2,
        "SGDP": SGD | L2,
    },
    "tune_seeds": range(2),
    "seeds": range(5),
    "metric": "test/accuracy",
    "select": "valid/accuracy",
    "unit": "%",
    "digits": 2,
    "also": {"state bytes per parameter": "state_bytes_per_parameter"},
    "plots": ("points", "grid"),
    "scales": {
        "cpu": {
            "about": "2 CPU cores, 3 epochs",
            "minutes": 6,
            "notes_of": "b2d98307",
            "notes": (
                "All but Lion are within 0.1 points of each other; Lion is 0.4 points behind, the "
                "one significant difference, with half of AdamW's state. Its learning rate is ten "
                "times lower than AdamW's, as its rule says; its decay is the same, against the "
                "rule's 3 to 10 times.",
                "The network has no normalization, so AdamP and SGDP gain nothing from their "
                "projection here.",
            ),
        },
        "gpu": {
            "about": "one GPU, 20 epochs, all seeds tune",
            "minutes": 20,
            "tune_seeds": (),
            "packed": 20,
            "base": {"epochs": 20.0, "eval_every": 1000000},
        },
    },
}
