"""The keys that every config of ``experiments.solve`` has."""

from ml_collections import ConfigDict, config_dict

from configs import common


def get_config() -> ConfigDict:
    """Returns the default config of ``experiments.solve``, from which tables start."""
    placeholder = config_dict.placeholder
    return ConfigDict(
        {
            "seed": 0,
            # A problem of experiments.problems and its options.
            "problem": {"name": "cleaning", "options": {}},
            # A solver of bilevel. A step size is a number, {"power": (scale, exponent)} or an
            # optimizer with its learning rate, {"adam": 0.01}.
            "solver": {"name": "penalty", "options": {}},
            "batch_size": 0,  # Samples of a batch; 0: all of them in each step.
            "steps": 1000,
            "seconds": placeholder(float),  # Ends a run early, for comparisons at equal time.
            "x64": False,
            "log_every": 50,
            "eval_every": placeholder(int),  # Steps; None: with each log line.
            "save_every": placeholder(int),  # Steps; None: with each evaluation.
            "keep": 2,  # Latest checkpoints to keep, besides the best.
        }
    )


def choose(config: ConfigDict, arg: str, solvers: dict[str, dict], *others: str) -> list[str]:
    """Sets the solver that ``arg`` names, the first of ``solvers`` by default.

    Args:
      config: Changed in place.
      arg: The config's argument: a solver, ``smoke`` and ``others``, with commas.
      solvers: Options of each solver.
      *others: Words that the config itself looks for.

    Returns:
      The words of ``arg`` that are no solver.

    Raises:
      ValueError: On any other word.
    """
    words = common.words(arg, *solvers, *others, "smoke")
    names = [word for word in words if word in solvers] or [next(iter(solvers))]
    options = dict(solvers[names[0]])
    config.solver.name = options.pop("name", names[0])
    config.solver.options = ConfigDict(options, convert_dict=False)
    if "smoke" in words:
        config.steps, config.log_every, config.eval_every = 4, 2, 2
    return [word for word in words if word not in solvers]
