"""How often each method is best, and among the best three: table 1 of the REX paper.

python -m experiments.ranks rex_digits_sgdm rex_digits_adam
python -m experiments.ranks --out_dir=runs/tables rex_fashion_sgdm
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import app, flags

from experiments.common import files, launch
from experiments.tables import definition, ranks_of, render


def main(argv: list[str]) -> int:
    """Prints the shares, and writes them with ``--write``."""
    folder = Path(flags.FLAGS.out_dir).expanduser()
    found: list[Mapping[str, Any]] = []
    for name in argv[1:]:
        path = render.path(name, flags.FLAGS.scale, folder)
        if not path.exists():
            raise ValueError(
                f"there is no {path}: run python -m experiments.reproduce --table={name} first"
            )
        found.append(files.read_json(path))
    if not found:
        raise ValueError("name the tables to rank: python -m experiments.ranks TABLE ...")
    text = ranks_of.report(found)
    print(text)
    if flags.FLAGS.write is not None:
        files.write(Path(flags.FLAGS.write).expanduser(), text)
    return 0


if __name__ == "__main__":
    flags.DEFINE_string("out_dir", str(definition.ROOT / "results"), "Folder of the tables' JSON.")
    flags.DEFINE_enum("scale", "cpu", definition.SCALES, "Scale of the tables.")
    flags.DEFINE_string("write", None, "Also write the Markdown to this file.")
    app.run(lambda argv: launch.guard(lambda: main(argv)))
