"""AdamW, SGD with momentum and Lion: LeNet-300-100 on MNIST.

python -m experiments.reproduce --table=mnist_optimizers --data_dir=DATA
"""

TABLE = {
    "title": "AdamW, SGD with momentum and Lion: LeNet-300-100 on MNIST",
    "protocol": (
        "LeNet-300-100 on MNIST, batches of 128, cosine schedule; weight decay is decoupled for "
        "AdamW and Lion, which share one grid, and L2 for SGD (momentum 0.9), which has its own."
    ),
    "config": "configs/mnist_lenet300.py",
    "base": "epochs=3.0, eval_every=1000000",
    "rows": {
        "AdamW": "optimizer.name=adamw",
        "SGDM": "optimizer.name=sgd, optimizer.momentum=0.9",
        "Lion": "optimizer.name=lion",
    },
    "grid": {
        "AdamW": (
            "optimizer.learning_rate=[1e-4, 3e-4, 1e-3, 3e-3, 1e-2],"
            "optimizer.weight_decay=[0.0, 0.1, 1.0, 10.0]"
        ),
        "SGDM": (
            "optimizer.learning_rate=[3e-3, 1e-2, 3e-2, 1e-1, 3e-1],"
            "optimizer.weight_decay=[0.0, 1e-4, 1e-3, 1e-2]"
        ),
        "Lion": (
            "optimizer.learning_rate=[1e-4, 3e-4, 1e-3, 3e-3, 1e-2],"
            "optimizer.weight_decay=[0.0, 0.1, 1.0, 10.0]"
        ),
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
        "Lion's rule: its learning rate is ten times lower than AdamW's; its decay is the same "
        "here, against the rule's 3 to 10 times.",
        "Lion's state is half of AdamW's, as claimed. Its accuracy is 0.4 points behind.",
    ),
    "scales": {
        "cpu": {"about": "2 CPU cores, 3 epochs", "minutes": 4},
        "gpu": {
            "about": "one GPU, 20 epochs, all seeds tune",
            "minutes": 20,
            "tune_seeds": (),
            "packed": 20,
            "base": "epochs=20.0, eval_every=1000000",
        },
    },
}
