"""The keys that every supervised config has; a config fills in what it needs."""

from ml_collections import ConfigDict, config_dict


def supervised() -> ConfigDict:
    """Returns the default config of ``experiments.train``."""
    placeholder = config_dict.placeholder
    return ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "digits",  # digits, mnist, fashion_mnist, cifar10, libsvm:FILE, text:PATH,
                # tokens:FOLDER.
                "augment": False,  # Pad, crop, flip.
                "stream": False,  # Read from host memory through grain; else lives on the device.
                "length": 128,  # Tokens that the model sees, for text.
                "options": {},
            },
            "model": {"name": "mlp", "options": {}},
            "batch_size": 64,
            "eval_batch_size": 256,
            "epochs": 30.0,  # Or give steps, which goes before.
            "steps": placeholder(int),
            "optimizer": {
                "name": "adamw",  # Any optimizer of optim, optax or optax.contrib.
                "learning_rate": 1e-3,
                "weight_decay": placeholder(float),  # None: the optimizer's own default.
                "momentum": placeholder(float),
                "nesterov": placeholder(bool),
                "b1": placeholder(float),
                "b2": placeholder(float),
                "eps": placeholder(float),
                "clip_norm": placeholder(float),
                "momentum_schedule": placeholder(str),  # "onecycle": its opposite phase.
                "record_norms": placeholder(str),  # "l2" or "l1": kept for experiments.refine.
            },
            "loss": "softmax",  # Or stablemax.
            # Parts of a batch, one after the other in the memory of one; on many devices each has a
            # share of each part.
            "accumulate": 1,
            # Parts of a batch, >= 2, whose gradients tell the noise scale, a metric; None: it is
            # not measured.
            "micro_batches": placeholder(int),
            # backprop, or an estimator of optim.zeroth_order with its arguments:
            # --config.gradient=rge --config.gradient.samples=4.
            "gradient": {"name": "backprop"},
            # Any schedule of optim or optax, over the steps of the run; warm-up steps are inside.
            "schedule": {"name": "cosine", "warmup": 0},
            # ((regex of parameter paths, {"lr_mult": 0.1, "weight_decay": 0.0, ...}), ...)
            "groups": (),
            "log_every": 50,
            "eval_every": placeholder(int),  # Steps; None: each epoch.
            "save_every": placeholder(int),  # Steps; None: with each evaluation.
            "keep": 2,  # Latest checkpoints to keep, besides the best.
        }
    )


def words(arg: str, *known: str) -> list[str]:
    """Returns the words of a config's argument, which stand between commas.

    Raises:
      ValueError: On a word that is not ``known``.
    """
    found = [word for word in arg.split(",") if word]
    for word in found:
        if word not in known:
            allowed = f"must be of {', '.join(known)}" if known else "must be empty"
            raise ValueError(f"the config's argument {allowed}, got {word!r}")
    return found
