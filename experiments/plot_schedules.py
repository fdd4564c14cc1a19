"""Picture and table of schedules by name.

python -m experiments.plot_schedules rex linear cosine cosine@10-10 --steps=1000
"""

from pathlib import Path

from absl import app, flags

import optim
from experiments.common import launch


def parse(name: str, steps: int):
    """Returns the schedule of ``profile`` or ``profile@sampling`` with peak 1."""
    profile, _, sampling = name.partition("@")
    return optim.sampled_schedule(profile, 1.0, steps, sampling=sampling or "every")


def main(argv: list[str]) -> int:
    """Prints the table and saves the picture."""
    names = argv[1:] or ["linear", "cosine", "rex", "step", "exponential", "onecycle"]
    steps = flags.FLAGS.steps
    schedules = {name: parse(name, steps) for name in names}
    print(optim.tabulate_schedules(schedules, steps))
    path = Path(flags.FLAGS.out).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = optim.plot_schedules(schedules, steps, title=f"Schedules over {steps} steps")
    figure.axes[0].legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=150)
    print(f"picture: {path}")
    return 0


if __name__ == "__main__":
    flags.DEFINE_integer("steps", 1000, "Length of the schedules.", lower_bound=1)
    flags.DEFINE_string("out", "runs/schedules.png", "The picture.")
    app.run(lambda argv: launch.guard(lambda: main(argv)))
