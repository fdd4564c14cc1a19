"""A LLaMA-style model of 0.6M parameters on the characters of tinyshakespeare.

    python -m experiments.train --config=configs/tinyshakespeare_llama.py --data_dir=DATA

DATA/text/tinyshakespeare/input.txt is cut into 90 % train, 5 % valid, 5 % test.
Expected (seed 0): 1.63 nats a character on the validation part, 1.74 on the test part; 3.4 minutes
on 2 cores of an AMD EPYC, CPU only, beside another training run.
"""

from configs import common


def get_config(arg: str = ""):
    """Returns the config; ``arg`` is ``smoke`` for seconds on this repository's README."""
    config = common.supervised()
    config.data.name = "text:tinyshakespeare"
    config.data.length = 64
    config.model = {"name": "llama", "options": {"size": "char"}}
    config.batch_size = 32
    config.eval_batch_size = 64
    config.steps = 1000
    config.optimizer.learning_rate = 3e-3
    config.optimizer.weight_decay = 0.1
    config.optimizer.b2 = 0.99
    config.optimizer.clip_norm = 1.0
    config.schedule.warmup = 100
    config.log_every = 50
    config.eval_every = 250
    if "smoke" in common.words(arg, "smoke"):
        config.data.name = "text:README.md"
        config.data.length = 32
        config.steps = 20
        config.schedule.warmup = 2
        config.log_every = 5
    return config
