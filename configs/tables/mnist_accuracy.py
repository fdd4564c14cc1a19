"""Every optimizer of the package beside AdamW and SGD: LeNet-300-100 on MNIST.

python -m experiments.reproduce --table=mnist_accuracy --data_dir=DATA
"""

ADAPTIVE = "optimizer.learning_rate=[3e-4, 1e-3, 3e-3, 1e-2, 3e-2]"
SGD = "optimizer.learning_rate=[1e-2, 3e-2, 1e-1, 3e-1, 1.0]"
DECOUPLED = "optimizer.weight_decay=[0.0, 0.1, 1.0]"
L2 = "optimizer.weight_decay=[0.0, 1e-3, 1e-2]"

TABLE = {
    "title": "Lion, AdamP, SGDP, diffGrad against AdamW and SGD: LeNet-300-100 on MNIST",
    "protocol": (
        "LeNet-300-100 on MNIST, batches of 128, cosine schedule; decay is decoupled for AdamW, "
        "AdamP, Lion and SGDP, L2 for SGD and diffGrad; five learning rates and three decays for "
        "each method, in the range of its kind."
    ),
    "config": "configs/mnist_lenet300.py",
    "base": "epochs=3.0, eval_every=1000000",
    "rows": {
        "AdamW": "optimizer.name=adamw",
        "AdamP": "optimizer.name=adamp",
        "diffGrad": "optimizer.name=diffgrad",
        "Lion": "optimizer.name=lion",
        "SGDM": "optimizer.name=sgd, optimizer.momentum=0.9",
        "SGDP": "optimizer.name=sgdp, optimizer.momentum=0.9",
    },
    "grid": {
        "AdamW": f"{ADAPTIVE}, {DECOUPLED}",
        "AdamP": f"{ADAPTIVE}, {DECOUPLED}",
        "diffGrad": f"{ADAPTIVE}, {L2}",
        "Lion": f"optimizer.learning_rate=[3e-5, 1e-4, 3e-4, 1e-3, 3e-3], {DECOUPLED}",
        "SGDM": f"{SGD}, {L2}",
        "SGDP": f"{SGD}, {L2}",
    },
    "tune_seeds": range(2),
    "seeds": range(5),
    "metric": "test/accuracy",
    "select": "valid/accuracy",
    "unit": "%",
    "digits": 2,
    "also": {"state bytes per parameter": "state_bytes_per_parameter"},
    "plots": ("points", "grid"),
    "notes": (
        "All but Lion are within 0.1 points of each other; Lion is 0.4 points behind. The "
        "multi-layer perceptron has no normalization, so AdamP and SGDP gain nothing from their "
        "projection here.",
    ),
    "scales": {"cpu": {"about": "2 CPU cores, 3 epochs", "minutes": 6}},
}
