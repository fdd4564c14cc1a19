"""A main that takes milliseconds: a quadratic whose optimum depends on the optimizer."""

import math
import os
import time
from pathlib import Path
from typing import NamedTuple

import ml_collections
import numpy as np


class Result(NamedTuple):
    final: dict
    history: list


def get_config():
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "steps": 10,
            "optimizer": {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.0},
            "pair": None,
            "sleep": 0.0,
            "plant": "",
        }
    )


def shared_part(config):
    return f"{config.optimizer.name} {config.steps} {config.plant}"


def run(config, workdir=None, data_dir=None, *, quiet=False):
    log = os.environ.get("FAKE_MAIN_LOG")
    if log:
        with Path(log).open("a") as file:
            file.write(f"{config.to_json(sort_keys=True)}\n")
    time.sleep(config.sleep)
    if isinstance(config.pair, list):
        raise TypeError(f"pair must be a tuple, got {config.pair!r}")
    optimizer = config.optimizer
    if config.plant == "diverge" and optimizer.learning_rate > 0.05:
        raise FloatingPointError("loss is nan at step 7")
    if config.plant == "nan" and optimizer.learning_rate > 0.05 and config.seed == 1:
        return Result({"valid": 0.9, "test": 0.9, "loss": math.nan}, [])
    if config.plant == "fail" and config.seed == 2:
        raise RuntimeError("out of luck")
    best = {"adamw": 1e-3, "lion": 1e-4, "sgd": 1e-1}[optimizer.name]
    rng = np.random.default_rng([config.seed, len(optimizer.name)])
    valid = 0.9 - 0.05 * math.log10(optimizer.learning_rate / best) ** 2
    valid += 0.001 * rng.standard_normal() + 1e-4 * config.steps
    test = valid - 0.01 + 0.001 * rng.standard_normal()
    history = [{"step": i, "loss": 1 / (i + 1) + 0.01 * rng.random()} for i in range(4)]
    return Result({"valid": valid, "test": np.float32(test), "loss": 1 - test}, history)


def run_population(configs, workdir=None, data_dir=None, *, quiet=False):
    assert len({shared_part(c) for c in configs}) == 1
    return [run(c, data_dir=data_dir, quiet=quiet) for c in configs]
