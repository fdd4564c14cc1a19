"""The methods that are compared, and the space that each is tuned in, the same on all workloads.

A method is a dict:

  optimizer     name of an optimizer of experiments.train, or of a wrapper around one
  options       its fixed arguments
  space         what is tuned: argument to (low, high), drawn log-uniformly. "one_minus_b1" stands
                for 1 - b1, and so on. Without a space the method claims to need no tuning: it gets
                one trial per study, and half as many steps more
  schedule      "cosine" after 5 % of warm-up for all whose schedule is not part of the method

The learning rates of Lion lie ten times below those of AdamW and its decay ten times above, as its
authors say.
"""

ADAM = {
    "learning_rate": (3e-4, 3e-2),
    "one_minus_b1": (0.02, 0.5),
    "weight_decay": (1e-4, 0.3),
}
MOMENTUM = {
    "learning_rate": (1e-2, 5.0),
    "one_minus_momentum": (0.01, 0.3),
    "weight_decay": (1e-6, 1e-3),
}
LION = {
    "learning_rate": (3e-5, 3e-3),
    "one_minus_b1": (0.02, 0.5),
    "weight_decay": (1e-3, 3.0),
}
MUON = {"learning_rate": (1e-3, 1e-1), "weight_decay": (1e-4, 0.3)}
# L2 decay, which is divided by the second moment.
ADAM_L2 = {**ADAM, "weight_decay": (1e-6, 1e-3)}

METHODS = {
    "AdamW": {"optimizer": "adamw", "space": ADAM},
    "NadamW": {"optimizer": "nadamw", "space": ADAM},
    "SGDM": {"optimizer": "sgd", "space": MOMENTUM},
    "Nesterov": {"optimizer": "sgd", "options": {"nesterov": True}, "space": MOMENTUM},
    "Lion": {"optimizer": "lion", "space": LION},
    "cautious Lion": {"optimizer": "cautious_lion", "space": LION},
    "signum": {
        "optimizer": "signum",
        "space": {"learning_rate": LION["learning_rate"], "one_minus_beta": (0.02, 0.5)},
    },
    "AdEMAMix": {"optimizer": "ademamix", "space": ADAM},
    "AdamP": {"optimizer": "adamp", "space": ADAM},
    "SGDP": {"optimizer": "sgdp", "space": MOMENTUM},
    "diffGrad": {"optimizer": "diffgrad", "space": ADAM_L2},
    "FRUGAL 0.25": {
        "optimizer": "frugal",
        "options": {"density": 0.25, "update_gap": 20},
        "space": {k: ADAM[k] for k in ("learning_rate", "weight_decay")},
    },
    "Muon": {"optimizer": "muon", "space": MUON},
    "schedule-free AdamW": {
        "optimizer": "schedule_free_adamw",
        "space": {**ADAM, "learning_rate": (1e-3, 1e-1)},
        "schedule": "constant",
    },
    "ADOPT": {"optimizer": "adopt", "space": ADAM_L2},
    "Prodigy": {"optimizer": "prodigy", "options": {"learning_rate": 1.0, "weight_decay": 0.01}},
}
# Compared only where they are named.
MORE = {
    "OrthoGrad AdamW": {"optimizer": "orthograd_adamw", "space": ADAM},
    "cautious-decay AdamW": {"optimizer": "cautious_decay_adamw", "space": ADAM},
    "cautious-decay Lion": {"optimizer": "cautious_decay_lion", "space": LION},
    "projected Muon": {"optimizer": "projected_muon", "space": MUON},
    "SOAP": {"optimizer": "soap", "space": ADAM},
    "projected SOAP": {"optimizer": "projected_soap", "space": ADAM},
    "AdaGrad-Norm": {
        "optimizer": "adagrad_norm",
        "space": {"learning_rate": (1e-2, 10.0), "weight_decay": (1e-6, 1e-3)},
    },
}
# The methods that set the targets, as in AlgoPerf.
BASELINES = ("AdamW", "NadamW", "Nesterov", "SGDM")
# For an optimizer that is named on the command line and stands in none of the above.
SPACE = {"learning_rate": (1e-4, 1.0)}
