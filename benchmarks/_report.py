"""What the studies of results/small leave: a JSON file with its page in Markdown beside it."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.common import files, provenance

__all__ = ["found_with", "parser", "write"]


def parser(doc: str) -> argparse.ArgumentParser:
    """A parser of ``--out``, described by the first line of a docstring."""
    made = argparse.ArgumentParser(description=doc.splitlines()[0])
    made.add_argument("--out", type=Path, help="JSON file; a Markdown file is written beside it.")
    return made


def found_with(command: str) -> dict[str, Any]:
    """The first keys of every file: command, machine and versions."""
    made = {"machine": provenance.machine(), "versions": provenance.versions()}
    return {"command": command, **made}


def write(results: dict[str, Any], page: Callable[[dict], str], out: Path | None) -> None:
    """Prints the page, and writes both files."""
    print(page(results))
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        files.write(out, json.dumps(results, indent=1) + "\n")
        files.write(out.with_suffix(".md"), page(results))
