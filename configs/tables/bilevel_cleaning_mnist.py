"""Hyper-cleaning of MNIST and Fashion-MNIST with a linear model, half of the labels flipped.

python -m experiments.reproduce --table=bilevel_cleaning_mnist --data_dir=DATA
"""

PENALTY = {
    "solver.name": "penalty",
    "solver.options.upper_step": ("adam", 0.1),
    "solver.options.averaging": 0.8,
    "solver.options.lower_step": 0.1,
    "solver.options.upper_weight": ("power", 0.3, -0.3333),
    "solver.options.prox": 10.0,
    "solver.options.inner_steps": 5,
    "steps": 100,
}

TABLE = {
    "title": "Hyper-cleaning of MNIST and Fashion-MNIST, half of the training labels flipped",
    "main": "solve",
    "config": "configs/bilevel/common.py",
    "protocol": (
        "Linear model, 5000 training samples of which 2500 have a wrong label drawn uniformly, "
        "5000 clean validation samples, the whole test set; full batches; a new split and flips "
        "for each seed. AUC: how often a clean sample gets a larger weight than a flipped one. "
        "Steps sized to about 5 s of one core each (seconds without compilation beside). "
        "The settings of configs/bilevel/cleaning_mnist.py, found on MNIST, seed 0, not tuned "
        'further. "no cleaning": the penalty method\'s run with all weights at 1/2.'
    ),
    "base": {
        "problem.name": "cleaning",
        "problem.options.train": 5000,
        "problem.options.valid": 5000,
        "problem.options.noise": 0.5,
        "log_every": 50,
    },
    "rows": {
        "no cleaning": PENALTY | {"problem.options.weights": False},
        "penalty": PENALTY,
        "F2SA": {
            "solver.name": "f2sa",
            "solver.options.penalized_step": 0.01,
            "solver.options.lower_step": 0.1,
            "solver.options.multiplier": 5.0,
            "solver.options.multiplier_step": 0.01,
            "solver.options.upper_step": ("adam", 0.1),
            "steps": 50,
        },
        "implicit": {
            "solver.name": "implicit",
            "solver.options.upper_step": ("adam", 0.1),
            "solver.options.lower_step": 0.1,
            "solver.options.inner_steps": 10,
            "solver.options.linear_steps": 10,
            "steps": 80,
        },
        "unrolled": {
            "solver.name": "unrolled",
            "solver.options.upper_step": ("adam", 0.1),
            "solver.options.lower_step": 0.1,
            "solver.options.inner_steps": 10,
            "steps": 50,
        },
        "SOBA": {
            "solver.name": "soba",
            "solver.options.lower_step": 0.1,
            "solver.options.upper_step": ("adam", 0.05),
            "steps": 400,
        },
    },
    "setting": "data set",
    "columns": {
        "MNIST": {"problem.options.data": "mnist"},
        "Fashion": {"problem.options.data": "fashion_mnist"},
    },
    "seeds": range(5),
    "metric": "test/accuracy",
    "select": "valid/accuracy",
    "unit": "%",
    "digits": 2,
    "also": {"AUC": "auc", "seconds": "seconds"},
    "notes_of": "d29c0090",
    "notes": (
        "Penalty, F2SA and SOBA gain 7.7 points over no cleaning on MNIST and 3.8 to 4.5 on "
        "Fashion-MNIST, at AUCs of .95 to .96, without second derivatives for the first two. "
        "Implicit and unrolled differentiation are a point behind on MNIST in the mean.",
        "The settings were found on seed 0 of MNIST, which is among the reported.",
    ),
    "scales": {"cpu": {"about": "one CPU core, needs MNIST and Fashion-MNIST", "minutes": 9}},
}
