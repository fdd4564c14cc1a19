"""Every optimizer of the package beside AdamW and SGD: LeNet-300-100 on MNIST.

python -m experiments.reproduce --table=mnist_accuracy --data_dir=DATA
"""

TABLE = {
    "title": "Lion, AdamP, SGDP, diffGrad against AdamW and SGD: LeNet-300-100 on MNIST",
    "protocol": (
        "LeNet-300-100 on MNIST, batches of 128, cosine schedule, default decay of the config; "
        "the learning rate is tuned over one grid for the adaptive methods and one for SGD."
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
        "AdamW": "optimizer.learning_rate=[3e-4, 1e-3, 3e-3, 1e-2]",
        "AdamP": "optimizer.learning_rate=[3e-4, 1e-3, 3e-3, 1e-2]",
        "diffGrad": "optimizer.learning_rate=[3e-4, 1e-3, 3e-3, 1e-2]",
        "Lion": "optimizer.learning_rate=[3e-5, 1e-4, 3e-4, 1e-3]",
        "SGDM": "optimizer.learning_rate=[3e-3, 1e-2, 3e-2, 1e-1]",
        "SGDP": "optimizer.learning_rate=[3e-3, 1e-2, 3e-2, 1e-1]",
    },
    "tune_seeds": range(2),
    "seeds": range(5),
    "metric": "test/accuracy",
    "select": "valid/accuracy",
    "unit": "%",
    "digits": 2,
    "also": {"state bytes per parameter": "state_bytes_per_parameter"},
    "plots": ("points", "grid"),
    "scales": {"cpu": {"about": "2 CPU cores, 3 epochs", "minutes": 10}},
}
