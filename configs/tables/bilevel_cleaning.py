"""LV-HBA and its baselines: hyper-cleaning of a linear SVM, 40 % of the labels flipped.

python -m experiments.reproduce --table=bilevel_cleaning --data_dir=DATA
"""

from configs.tables.bilevel_svm import GRID, METHODS, PROTOCOL

# Steps that take .4 to .5 s each on one core of an AMD EPYC.
STEPS = {"LV-HBA": 16000, "penalty": 16000, "implicit": 10000, "unrolled": 4800, "one C": 9000}

TABLE = {
    "title": "Hyper-cleaning of breast-cancer, 40 % of the training labels flipped",
    "protocol": (
        "Linear SVM, 300 training samples of which 120 have the wrong label, 150 clean validation "
        "samples, 233 for test; a new split, flips and start for each seed; C in [-8, -4]. AUC: "
        "how often a clean sample gets a larger C than a flipped one." + PROTOCOL
    ),
    "main": "solve",
    "config": "configs/bilevel/common.py",
    "base": {
        "problem.name": "svm",
        "problem.options.data": "breast_cancer",
        "problem.options.flip": 0.4,
        "problem.options.train": 300,
    },
    "rows": {k: v | {"steps": STEPS[k], "log_every": STEPS[k] // 4} for k, v in METHODS.items()},
    "grid": GRID,
    "seeds": range(1, 21),
    "tune_seeds": (1, 2, 3),
    "metric": "test/accuracy",
    "select": "valid/accuracy",
    "unit": "%",
    "digits": 2,
    "also": {"AUC": "auc", "validation loss": "objective", "seconds": "seconds"},
    "notes_of": "c1fb4058",
    "notes": (
        "At equal time the four methods do not differ by more than chance explains; LV-HBA is 4.7 "
        "points above one C for all, which is significant.",
        "It is not by finding the flipped labels: the AUC of the learned C stays near chance. "
        "(The sigmoid weights of `bilevel_cleaning_mnist` do find them.)",
    ),
    "scales": {"cpu": {"about": "one CPU core, needs the LV-HBA data", "minutes": 7}},
}
