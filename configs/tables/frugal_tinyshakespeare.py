"""FRUGAL against AdamW, signSGD, Lion, GaLore and BAdam: a small LLaMA on Shakespeare's characters.

python -m experiments.reproduce --table=frugal_tinyshakespeare --data_dir=DATA
"""


def sparse(name, density):
    """The point of a method with a subspace."""
    return {
        "optimizer.name": name,
        "optimizer.density": density,
        "optimizer.update_gap": 20,
    }


TABLE = {
    "title": "FRUGAL and its baselines: character model on tinyshakespeare",
    "protocol": (
        "LLaMA-style model (3 blocks of width 128, 0.6M parameters), windows of {data.length} "
        "characters, batches of {batch_size}, {steps} steps with {schedule.warmup} of warm-up, "
        "then {schedule.name}; gradients clipped to norm {optimizer.clip_norm}; no weight decay, "
        "as FRUGAL's authors pre-train; density 0.25 and a new subspace every 20 steps where there "
        "is one. One grid of learning rates for all."
    ),
    "config": "configs/frugal_tinyshakespeare.py",
    "base": {
        "batch_size": 8,
        "steps": 400,
        "schedule.warmup": 40,
        "log_every": 25,
        "eval_every": 1000000,
    },
    "rows": {
        "AdamW": {"optimizer.name": "adamw"},
        "FRUGAL 0.25": sparse("frugal", 0.25),
        "FRUGAL 0": sparse("frugal", 0.0),
        "GaLore 0.25": sparse("galore", 0.25),
        "BAdam 0.25": sparse("badam", 0.25),
        "Lion": {"optimizer.name": "lion"},
        "signSGD": {"optimizer.name": "sign_sgd"},
    },
    "grid": {"optimizer.learning_rate": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1]},
    "tune_seeds": (0,),
    "seeds": range(3),
    "metric": "valid/loss",
    "select": "valid/loss",
    "direction": "min",
    "unit": "nats per character",
    "also": {"state bytes per parameter": "state_bytes_per_parameter"},
    "source": (
        "No published numbers in this setting. The paper (C4, 60M to 1B parameters, density 0.25) "
        "ranks AdamW, FRUGAL 0.25, FRUGAL 0, BAdam, GaLore."
    ),
    "plots": ("points", "grid", "history"),
    "history": ("step", "loss"),
    "scales": {
        "cpu": {
            "about": "2 CPU cores, 400 steps",
            "minutes": 30,
            "notes_of": "c5e4cdcc",
            "notes": (
                "FRUGAL is as good as AdamW at both densities, as in the paper, with 1/4 and 1/35 "
                "of its state; most of what is left at density 0 is AdamW's for embedding, norms "
                "and head.",
                "The rest of the paper's ranking does not hold here: GaLore, its last, is first, "
                "at a learning rate thirty times AdamW's; BAdam is last, behind signSGD, as in 400 "
                "steps it moves each block only 100 times. These two differ from AdamW "
                "significantly, the others do not.",
            ),
        },
        "gpu": {
            "about": "one GPU, 5000 steps of 64 windows of 128, Penn Treebank too",
            "minutes": 60,
            "columns": {"tinyshakespeare": {}, "Penn Treebank": {"data.name": "text:ptb"}},
            "base": {
                "data.length": 128,
                "batch_size": 64,
                "steps": 5000,
                "schedule.warmup": 500,
                "optimizer.b2": None,
                "optimizer.weight_decay": 0.0,
                "log_every": 250,
                "eval_every": 1000000,
            },
        },
    },
}
