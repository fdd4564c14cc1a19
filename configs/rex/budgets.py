"""The REX paper's budget protocol as fields of a table: schedules x budgets x learning rates."""

# Label of the paper -> config.
SCHEDULES = {
    "(none)": {"schedule.name": "constant"},
    "Step Schedule": {"schedule.name": "step"},
    "Cosine Schedule": {"schedule.name": "cosine"},
    "OneCycle": {"schedule.name": "onecycle"},
    "Linear Schedule": {"schedule.name": "linear"},
    "Exp decay": {"schedule.name": "exponential"},
    "REX": {"schedule.name": "rex"},
}
BUDGETS = {"1%": 0.01, "5%": 0.05, "10%": 0.1, "25%": 0.25, "50%": 0.5, "100%": 1.0}
OPTIMIZERS = {
    "SGDM": {"optimizer.name": "sgd", "optimizer.momentum": 0.9},
    "Adam": {"optimizer.name": "adam"},
}
# Multiples of 3, as in the paper.
RATES = {
    "SGDM": {"optimizer.learning_rate": [0.0037, 0.0111, 0.0333, 0.1, 0.3, 0.9]},
    "Adam": {"optimizer.learning_rate": [0.00037, 0.00111, 0.00333, 0.01, 0.03, 0.09]},
}


def table(optimizer: str, data: str, config: str, epochs: float, **fields):
    """Returns the fields of a table of one optimizer on one data set.

    Args:
      optimizer: ``"SGDM"`` or ``"Adam"``.
      data: Name in the title.
      config: Config of a run.
      epochs: The budget of 100 %.
      **fields: Further fields of the table, ``scales`` among them.
    """
    rows = dict(SCHEDULES)
    if optimizer == "SGDM":  # As in the paper; it does not say so for Adam.
        rows["OneCycle"] = rows["OneCycle"] | {"optimizer.momentum_schedule": "onecycle"}
    return {
        "title": f"Learning-rate schedules under a budget: {data}, {optimizer}",
        "protocol": (
            f"Every budget is a run of its own, with a schedule of its own length; 100 % are "
            f"{epochs:g} epochs. Schedule and learning rate differ, all else is fixed. Step: x0.1 "
            "at 50 % and 75 %; Exp: gamma -3; OneCycle: 0.1 to 1 to 0.1 of the peak"
            + (", momentum 0.95 to 0.85 to 0.95." if optimizer == "SGDM" else ".")
        ),
        "config": config,
        "rows": rows,
        "setting": f"budget (% of {epochs:g} epochs)",
        "columns": {k: {"epochs": round(epochs * s, 10)} for k, s in BUDGETS.items()},
        "base": OPTIMIZERS[optimizer],
        "grid": RATES[optimizer],
        "seeds": (0, 1, 2),
        "metric": "test/accuracy",
        "select": "valid/accuracy",
        "also": {"train loss": "train/loss"},
        "baseline": "Linear Schedule",
        "unit": "%",
        "digits": 2,
        "packed": 16,
        "plots": ("columns", "difference"),
        **fields,
    }
