"""BiP and the methods it is judged against, on LIBSVM's letter.scale.

python -m experiments.reproduce --table=pruning_letter --data_dir=DATA
"""

from configs.tables.pruning_digits import COLUMNS, METHODS, PROTOCOL

TABLE = {
    "title": "Pruning an MLP on letter: accuracy against sparsity",
    "main": "prune",
    "config": "configs/pruning/letter.py",
    "protocol": "MLP 16-300-100-26 on letter.scale (standardised), 30 epochs of batches of 128. "
    + PROTOCOL,
    "base": "prune.through=(0.2, 0.1, 0.05, 0.02)",
    "rows": METHODS,
    "columns": COLUMNS,
    "seeds": range(5),
    "metric": "test/accuracy",
    "select": "test/accuracy",
    "unit": "%",
    "digits": 2,
    "also": {"seconds": "seconds", "gradients": "gradients"},
    "plots": ("columns",),
    "scales": {"cpu": {"about": "2 CPU cores, needs letter.scale", "minutes": 14}},
}
