"""Learning-rate schedules judged on logistic regression: 12 LIBSVM sets, SGD and Adam.

    python -m experiments.logreg --config=configs/logreg.py --data_dir=DATA

DATA/libsvm holds the files of https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/.
Every learning rate, schedule and seed of a set is one population. Expected: the table of
results/logreg/table.md; about 5 minutes on two CPU cores.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = ""):
    """Returns the config; ``arg`` is ``smoke`` for the smallest set and few steps."""
    config = ConfigDict(
        {
            "sets": (
                "iris.scale",
                "wine.scale",
                "glass.scale",
                "heart_scale",
                "svmguide2",
                "vehicle.scale",
                "vowel.scale",
                "dna.scale",
                "segment.scale",
                "satimage.scale",
                "pendigits",
                "letter.scale",
            ),
            # Features are taken as in the file, divided by this.
            "divide": {"pendigits": 100.0},
            # Left out of the mean ranks: separable, so the loss goes to 0.
            "separable": ("wine.scale", "dna.scale"),
            "learning_rates": {
                "sgd": (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0),
                "adam": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
            },
            # The norm that refines a schedule of this optimizer.
            "norms": {"sgd": "l2", "adam": "l1"},
            "schedules": ("constant", "inverse_time", "inverse_sqrt", "cosine", "linear", "rex"),
            "tau": 0.1,
            "pilot_seed": 1000,
            "seeds": (0, 1, 2),
            "batch_size": 16,
            # (Sets of up to this many rows, epochs).
            "epochs": ((1000, 100), (5000, 20), (10**9, 10)),
            "compare_steps": 200,  # Steps of the python loop that the speed is compared with.
        }
    )
    if "smoke" in common.words(arg, "smoke"):
        config.sets = ("iris.scale",)
        config.epochs = ((10**9, 2),)
        config.compare_steps = 5
    return config
