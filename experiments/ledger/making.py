"""Makes studies: small experiments of one claim each, kept unit by unit."""

import hashlib
import importlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from experiments.common import files, runs
from experiments.ledger import definition
from experiments.tables import cache, execution
from experiments.tables import definition as tables

__all__ = ["plan", "run", "write"]

FOLDER = definition.ROOT / "experiments" / "studies"


def run(config: ConfigDict, *, data_dir: str | None = None, quiet: bool = True) -> runs.Result:
    """Makes one unit of a study.

    Args:
      config: ``study``, its ``seeds`` and ``settings``, and whether it takes ``data``.
      data_dir: Folder of real data.
      quiet: For the signature that all mains share.

    Returns:
      The mean of each number and the seconds of the processor; the numbers of each seed are the
      lines of its history.
    """
    module = importlib.import_module(f"experiments.studies.{config.get('file', config.study)}")
    settings: dict[str, Any] = config.settings.to_dict()
    if config.data:
        if data_dir is None:
            raise ValueError(f"the study {config.study} needs real data: give --data_dir=DIR")
        settings["data_dir"] = data_dir
    start = time.process_time()
    rows = [
        {k: float(v) for k, v in row.items()} for row in module.measure(config.seeds, **settings)
    ]
    final = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
    return runs.Result({**final, "core_seconds": time.process_time() - start}, rows)


def plan(study: definition.Study) -> list[tables.Run]:
    """The units of a study, each with its config and digest."""
    planned = []
    for settings in study.settings():
        config = ConfigDict(
            {
                "study": study.name,
                "seeds": study.seeds,
                "data": study.data,
                "settings": settings,
                **({"file": study.file} if study.file else {}),
            }
        )
        digest = cache.digest("studies", config)
        planned.append(tables.Run(study.name, "", settings, study.seeds, config, digest))
    return planned


def write(study: definition.Study, records: execution.Records, out_dir: Path) -> Path:
    """Writes ``STUDY.json`` of the finished units; returns its path.

    Raises:
      ValueError: If a unit failed or diverged: a study says itself what a run without an end is.
    """
    units, environment = [], {}
    for unit in plan(study):
        record = records[unit.digest]
        if record["status"] != "done":
            raise ValueError(f"study {unit.label}: {record['error']}")
        final = dict(record["final"])
        seconds = final.pop("core_seconds")
        units.append({"settings": unit.point, "core_seconds": seconds, "rows": record["history"]})
        environment = {k: record[k] for k in ("machine", "versions", "source", "own")}
    content = {
        "study": study.name,
        "seeds": study.seeds,
        **environment,
        "core_seconds": round(sum(unit["core_seconds"] for unit in units), 2),
        "units": units,
    }
    path = out_dir / f"{study.name}.json"
    files.write(path, f"{json.dumps(cache.plain(content), indent=1)}\n")
    return path


def is_of(study: definition.Study, content: Any) -> bool:
    """Whether a file of results holds the units that the study has now."""
    made = [unit["settings"] for unit in content["units"]]
    planned = [cache.plain(unit.point) for unit in plan(study)]
    return made == planned and content["seeds"] == study.seeds


def code(study: definition.Study) -> str:
    """Eight hex digits over the file of a study, so that a changed one is made again."""
    content = (FOLDER / f"{study.file or study.name}.py").read_bytes()
    return hashlib.sha256(content).hexdigest()[:8]
