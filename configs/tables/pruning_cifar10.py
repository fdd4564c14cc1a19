"""BiP, IMP and OMP on CIFAR-10 with ResNet-20, beside the figures of the BiP paper; for a GPU.

python -m experiments.reproduce --table=pruning_cifar10 --scale=gpu --data_dir=DATA
"""

TABLE = {
    "title": "Pruning ResNet-20 on CIFAR-10: accuracy against sparsity",
    "main": "prune",
    "config": "configs/pruning/cifar10_resnet20.py",
    "protocol": (
        "SGD with momentum {optimizer.momentum}, learning rate {optimizer.learning_rate}, "
        "{schedule.name} schedule, batches of {batch_size}, {epochs} epochs for dense training and "
        "for each round; all weights prunable by one global cut. IMP prunes a fifth per round and "
        "rewinds to epoch {prune.rewind_epochs}; OMP cuts once and rewinds; BiP starts from the "
        "dense model."
    ),
    "base": {"prune.through": (0.8**6, 0.8**9, 0.8**10)},
    "rows": {
        "IMP": {"prune.method": "imp"},
        "OMP": {"prune.method": "omp"},
        "BiP": {"prune.method": "bip"},
        "dense": {"prune.method": "dense"},
    },
    "setting": "sparsity (% of the weights that are zero)",
    "columns": {
        "73.8 %": {"prune.density": 0.8**6},
        "86.6 %": {"prune.density": 0.8**9},
        "89.3 %": {"prune.density": 0.8**10},
    },
    "seeds": range(3),
    "metric": "test/accuracy",
    "select": "test/accuracy",
    "unit": "%",
    "digits": 2,
    "also": {"seconds": "seconds", "gradients": "gradients"},
    "paper": {
        "IMP": {"73.8 %": 92.16, "89.3 %": 90.84},
        "BiP": {"73.8 %": 92.00, "86.6 %": 91.26, "89.3 %": 90.96},
        "dense": dict.fromkeys(("73.8 %", "86.6 %", "89.3 %"), 92.12),
    },
    "source": "Zhang et al., NeurIPS 2022: read off a figure of the authors' repository, to 0.05.",
    "plots": ("columns",),
    "scales": {"gpu": {"about": "one GPU, needs CIFAR-10", "minutes": 600}},
}
