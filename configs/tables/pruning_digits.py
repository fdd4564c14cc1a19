"""BiP and the methods it is judged against, on scikit-learn's digits: no data needed.

python -m experiments.reproduce --table=pruning_digits
"""

METHODS = {
    "IMP": {"prune.method": "imp"},
    "IMP, learning rate x2": {"prune.method": "imp_rewind_lr2"},
    "IMP, fine-tuning, x2": {"prune.method": "imp_finetune_lr2"},
    "OMP": {"prune.method": "omp"},
    "random": {"prune.method": "random"},
    "GMP, 3 x epochs": {"prune.method": "gmp"},
    "Hydra": {"prune.method": "hydra"},
    "BiP": {"prune.method": "bip"},
    "BiP, no implicit term": {"prune.method": "bip", "prune.inverse_gamma": 0.0},
    "dense": {"prune.method": "dense"},
}
COLUMNS = {
    "80 %": {"prune.density": 0.2},
    "90 %": {"prune.density": 0.1},
    "95 %": {"prune.density": 0.05},
    "98 %": {"prune.density": 0.02},
}
PROTOCOL = (
    "All weights prunable by one global cut (Hydra: layer by layer), biases not; SGD with "
    "momentum {optimizer.momentum}, learning rate {optimizer.learning_rate}, {schedule.name} "
    "schedule, last epoch reported, a new 80/20 split for each seed. IMP prunes a fifth per round "
    "and rewinds to epoch {prune.rewind_epochs}; OMP cuts once and rewinds; BiP starts from the "
    "dense model and trains as long as it; GMP three times as long; Hydra trains scores, then "
    "weights. Seconds are of the processor, after dense training and without compilation; "
    "gradients are evaluations of the gradient on a batch after dense training (random: its only "
    "training)."
)

TABLE = {
    "title": "Pruning an MLP on digits: accuracy against sparsity",
    "main": "prune",
    "config": "configs/pruning/digits.py",
    "protocol": "MLP 64-{model.options.widths}-10 on the 8x8 digits of scikit-learn, {epochs} "
    "epochs of batches of {batch_size}. " + PROTOCOL,
    "base": {"prune.through": (0.2, 0.1, 0.05, 0.02)},
    "rows": METHODS,
    "setting": "sparsity (% of the weights that are zero)",
    "columns": COLUMNS,
    "seeds": range(5),
    "metric": "test/accuracy",
    "select": "test/accuracy",
    "unit": "%",
    "digits": 2,
    "also": {"seconds": "seconds", "gradients": "gradients"},
    "plots": ("columns", "zoom"),
    "notes_of": "f2272383",
    "notes": (
        "Of 36 differences to IMP the collapse of random masks at 98 % alone is significant; what "
        "follows is about means of five seeds.",
        "BiP is not worse than IMP with its default learning rate at any sparsity, for 1/3.3 of "
        "its gradients and 1/2.0 of its seconds at 80 %, 1/8.1 and 1/4.9 at 98 %.",
        "That IMP is untuned, while BiP's settings were chosen on other splits of these data: IMP "
        "with fine-tuning at twice the learning rate is as good or better everywhere, and GMP of "
        "about BiP's cost ties with it.",
        "The implicit term makes no visible difference: without it BiP is as good.",
        "OMP collapses at 98 %, as random masks do.",
    ),
    "scales": {"cpu": {"about": "2 CPU cores, no data needed", "minutes": 8}},
}
