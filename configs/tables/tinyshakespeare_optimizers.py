"""AdamW, SGD with momentum and Lion: a small LLaMA on the characters of Shakespeare.

python -m experiments.reproduce --table=tinyshakespeare_optimizers --data_dir=DATA
"""

TABLE = {
    "title": "AdamW, SGD with momentum and Lion: character model on tinyshakespeare",
    "protocol": (
        "LLaMA-style model (3 blocks of width 128, 0.6M parameters) on tinyshakespeare, windows of "
        "{data.length} characters, batches of {batch_size}, {steps} steps with {schedule.warmup} "
        "of warm-up, then {schedule.name}; gradients clipped to norm {optimizer.clip_norm}; weight "
        "decay 0.1 for AdamW, 1.0 for Lion, none for SGD."
    ),
    "config": "configs/tinyshakespeare_llama.py",
    "base": {
        "batch_size": 8,
        "steps": 300,
        "schedule.warmup": 30,
        "optimizer.b2": None,
        "log_every": 25,
        "eval_every": 1000000,
    },
    "rows": {
        "AdamW": {
            "optimizer.name": "adamw",
            "optimizer.b2": 0.99,
            "optimizer.weight_decay": 0.1,
        },
        "SGDM": {
            "optimizer.name": "sgd",
            "optimizer.momentum": 0.9,
            "optimizer.weight_decay": 0.0,
        },
        "Lion": {"optimizer.name": "lion", "optimizer.weight_decay": 1.0},
    },
    "grid": {
        "optimizer.learning_rate": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0],
    },
    "tune_seeds": (0,),
    "seeds": range(3),
    "metric": "test/loss",
    "select": "valid/loss",
    "direction": "min",
    "unit": "nats per character",
    "also": {"state bytes per parameter": "state_bytes_per_parameter"},
    "plots": ("points", "grid", "history"),
    "history": ("step", "loss"),
    "scales": {
        "cpu": {
            "about": "2 CPU cores, 300 steps",
            "minutes": 12,
            "notes_of": "4a74f7b6",
            "notes": (
                "Lion's rule holds for the learning rate, 0.001 against AdamW's 0.003; its decay "
                "was set ten times higher beforehand, as the rule says.",
                "Lion's state is half of AdamW's, as claimed. Its loss is behind AdamW's in these "
                "300 steps, a sixth of an epoch; the paper trains for 10^5 and more.",
            ),
        },
        "gpu": {
            "about": "one GPU, 5000 steps of 64 windows of 128, 5 seeds",
            "minutes": 30,
            "seeds": range(5),
            "base": {
                "data.length": 128,
                "batch_size": 64,
                "steps": 5000,
                "schedule.warmup": 100,
                "optimizer.b2": None,
                "log_every": 250,
                "eval_every": 1000000,
            },
        },
    },
}
