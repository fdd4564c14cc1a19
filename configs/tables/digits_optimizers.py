"""Every optimizer of the package beside AdamW and SGD, on scikit-learn's digits: no data needed.

python -m experiments.reproduce --table=digits_optimizers
"""

TABLE = {
    "title": "Lion, AdamP, SGDP, diffGrad against AdamW and SGD: MLP on digits",
    "protocol": (
        "MLP 64-{model.options.widths}-10 on the 8x8 digits of scikit-learn, {epochs} epochs of "
        "batches of {batch_size}, {schedule.name} schedule; weight decay is decoupled for AdamW, "
        "AdamP, Lion and SGDP and L2 for SGD (momentum 0.9) and diffGrad."
    ),
    "config": "configs/digits.py",
    "rows": {
        "AdamW": {"optimizer.name": "adamw"},
        "SGDM": {"optimizer.name": "sgd", "optimizer.momentum": 0.9},
        "Lion": {"optimizer.name": "lion"},
        "AdamP": {"optimizer.name": "adamp"},
        "SGDP": {"optimizer.name": "sgdp", "optimizer.momentum": 0.9},
        "diffGrad": {"optimizer.name": "diffgrad"},
    },
    # One grid for all, wide enough for each.
    "grid": {
        "optimizer.learning_rate": [3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0],
        "optimizer.weight_decay": [0.0, 1e-3, 1e-2, 1e-1, 1.0, 10.0],
    },
    "seeds": range(5),
    "metric": "test/accuracy",
    "select": "valid/accuracy",
    "unit": "%",
    "digits": 2,
    "also": {"state bytes per parameter": "state_bytes_per_parameter"},
    "packed": 16,
    "plots": ("points", "grid"),
    "notes_of": "0252bc45",
    "notes": (
        "Four settings of AdamW, with learning rates 0.01 and 0.03, tie on the validation data. "
        "Another machine, which rounds sums differently, took another one of them, with a test "
        "accuracy of 98.06 %.",
        "Lion's rule, a learning rate 3 to 10 times lower and a decay 3 to 10 times higher than "
        "AdamW's, holds on the validation data: with decay up to 0.1, Lion is best at learning "
        "rates of 0.001 to 0.003 and AdamW at 0.003 to 0.03; decay 1 costs AdamW more than a point "
        "and is Lion's best. Lion's state is half of AdamW's, as claimed.",
        "The network has no normalization: AdamP and SGDP have little to project here.",
    ),
    "scales": {"cpu": {"about": "2 CPU cores, no data needed", "minutes": 3}},
}
