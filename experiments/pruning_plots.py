"""Pictures of pruning: density by layer, overlap of masks, accuracy against sparsity and cost.

    python -m experiments.pruning_plots --out_dir=PICTURES results/pruning_digits.json
    python -m experiments.pruning_plots --out_dir=PICTURES RUN RUN RUN

The first draws a table of pruning methods: accuracy against sparsity and against seconds. The
second compares what several runs of ``experiments.prune`` left in their folders, methods or
densities: which weights they share, and the density of each layer.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from experiments.common import files, launch
from experiments.pruning import pictures


def main(argv: Sequence[str]) -> int:
    """Draws what the arguments name."""
    folder, *paths = [Path(a).expanduser() for a in (flags.FLAGS.out_dir, *argv[1:])]
    if not paths:
        raise ValueError("give JSON files of tables, or folders of runs")
    folder.mkdir(parents=True, exist_ok=True)
    tables = [p for p in paths if p.is_file()]
    runs = [p for p in paths if not p.is_file()]
    drawn = [f for t in tables for f in pictures.of_table(files.read_json(t), folder)]
    drawn += pictures.of_runs(runs, folder) if runs else []
    for file in drawn:
        print(f"wrote {file}")
    return 0


if __name__ == "__main__":
    flags.DEFINE_string("out_dir", "runs/pictures", "Folder of the pictures.")
    app.run(lambda argv: launch.guard(lambda: main(argv)))
