"""FRUGAL against AdamW, signSGD, Lion, GaLore and BAdam: a small LLaMA on Shakespeare's characters.

python -m experiments.reproduce --table=frugal_tinyshakespeare --data_dir=DATA
"""

PTB = "data.name='text:ptb'"

TABLE = {
    "title": "FRUGAL and its baselines: character model on tinyshakespeare",
    "protocol": (
        "LLaMA-style model (3 blocks of width 128, 0.6M parameters), windows of 64 characters, "
        "batches of 8, 400 steps with 40 of warm-up, then cosine; gradients clipped to norm 1; no "
        "decay, as FRUGAL's authors pre-train; density 0.25 and a new subspace every 20 steps "
        "where there is one. One grid of learning rates for all, chosen on one seed."
    ),
    "config": "configs/frugal_tinyshakespeare.py",
    "base": ("batch_size=8, steps=400, schedule.warmup=40, log_every=25, eval_every=1000000"),
    "rows": {
        "AdamW": "optimizer.name=adamw",
        "FRUGAL 0.25": ("optimizer.name=frugal, optimizer.density=0.25, optimizer.update_gap=20"),
        "FRUGAL 0": "optimizer.name=frugal, optimizer.density=0.0, optimizer.update_gap=20",
        "GaLore 0.25": "optimizer.name=galore, optimizer.density=0.25, optimizer.update_gap=20",
        "BAdam 0.25": "optimizer.name=badam, optimizer.density=0.25, optimizer.update_gap=20",
        "Lion": "optimizer.name=lion",
        "signSGD": "optimizer.name=sign_sgd",
    },
    "grid": "optimizer.learning_rate=[1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1]",
    "tune_seeds": (0,),
    "seeds": range(3),
    "metric": "valid/loss",
    "select": "valid/loss",
    "direction": "min",
    "unit": "nats a character",
    "also": {"state bytes per parameter": "state_bytes_per_parameter"},
    "source": (
        "No published numbers in this setting. The paper (C4, 60M to 1B parameters, density 0.25) "
        "ranks AdamW, FRUGAL 0.25, FRUGAL 0, BAdam, GaLore."
    ),
    "notes": (
        "FRUGAL is as good as AdamW at both densities, as in the paper, with 1/4 and 1/35 of its "
        "state; most of what is left at density 0 is AdamW's for embedding, norms and head.",
        "The rest of the paper's ranking does not hold here: GaLore, its last, is first, at a "
        "learning rate thirty times AdamW's; BAdam is last, behind signSGD, as in 400 steps it "
        "moves each block only 100 times.",
    ),
    "plots": ("points", "grid", "history"),
    "history": ("step", "loss"),
    "scales": {
        "cpu": {"about": "2 CPU cores, 400 steps", "minutes": 30},
        "gpu": {
            "about": "one GPU, 5000 steps of 64 windows of 128, Penn Treebank too",
            "minutes": 60,
            "columns": {"tinyshakespeare": "", "Penn Treebank": PTB},
            "base": (
                "data.length=128, batch_size=64, steps=5000, schedule.warmup=500,"
                "optimizer.b2=None, optimizer.weight_decay=0.0, log_every=250, eval_every=1000000"
            ),
        },
    },
}
