"""Every optimizer of the package beside AdamW and SGD, on the digits of scikit-learn.

python -m experiments.reproduce --table=digits_accuracy
"""

TABLE = {
    "title": "Lion, AdamP, SGDP, diffGrad against AdamW and SGD: MLP on digits",
    "protocol": (
        "MLP 64-128-64-10 on the 8x8 digits of scikit-learn, 30 epochs of batches of 64, cosine "
        "schedule; decay is decoupled for AdamW, Lion, AdamP and SGDP, L2 for SGD and diffGrad."
    ),
    "config": "configs/digits.py",
    "rows": {
        "AdamW": "optimizer.name=adamw",
        "AdamP": "optimizer.name=adamp",
        "diffGrad": "optimizer.name=diffgrad",
        "Lion": "optimizer.name=lion",
        "SGDM": "optimizer.name=sgd, optimizer.momentum=0.9",
        "SGDP": "optimizer.name=sgdp, optimizer.momentum=0.9",
    },
    # One grid for all, wide enough for each.
    "grid": (
        "optimizer.learning_rate=[3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0],"
        "optimizer.weight_decay=[0.0, 1e-3, 1e-1, 1.0]"
    ),
    "seeds": range(5),
    "metric": "test/accuracy",
    "select": "valid/accuracy",
    "unit": "%",
    "digits": 2,
    "also": {"state bytes per parameter": "state_bytes_per_parameter"},
    "packed": 16,
    "plots": ("points", "grid"),
    "notes": (
        "With five seeds and 360 test images no difference to AdamW is significant. The network "
        "has no normalization: AdamP and SGDP gain nothing from their projection here.",
    ),
    "scales": {"cpu": {"about": "2 CPU cores, no data needed", "minutes": 1}},
}
