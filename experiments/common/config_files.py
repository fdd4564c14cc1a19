"""Config files with their argument, and what the command line changes in them."""

import ast
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections

from experiments.tables import sweep

__all__ = ["load", "module", "override_texts", "overrides"]

ROOT = Path(__file__).parents[2]


def module(path: Path):
    """Returns the module of a file."""
    if not path.is_file():
        raise ValueError(f"there is no config file {path}")
    spec = importlib.util.spec_from_file_location(re.sub(r"\W", "_", path.stem), path)
    if spec is None or spec.loader is None:
        raise ValueError(f"config file {path} must end in .py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def load(text: str) -> ml_collections.ConfigDict:
    """Returns the config of ``FILE`` or ``FILE:argument``; FILE may be relative to the repository.

    Raises:
      ValueError: There is no such file, or it does not know the argument.
    """
    name, _, argument = text.partition(":")
    path = Path(name) if Path(name).exists() else ROOT / name
    get_config = getattr(module(path), "get_config", None)
    if get_config is None:
        raise ValueError(f"config file {path} has no get_config")
    return get_config(argument) if argument else get_config()


def overrides(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Parts ``--config.a.b=1`` from the other arguments; ``--config.a.b 1`` is the same.

    Example:
      >>> overrides(["main", "--config.seed=1", "--seeds=2", "--config.x64"])
      (['main', '--seeds=2'], {'seed': '1', 'x64': 'True'})
    """
    rest, found, words = [], {}, list(argv)
    while words:
        word = words.pop(0)
        match = re.fullmatch(r"--?config\.([^=]+)(?:=(.*))?", word, flags=re.DOTALL)
        if match is None:
            rest.append(word)
        elif match[2] is not None:
            found[match[1]] = match[2]
        else:
            found[match[1]] = words.pop(0) if words and words[0][:1] != "-" else "True"
    return rest, found


def override_texts(
    config: ml_collections.ConfigDict, texts: dict[str, str]
) -> ml_collections.ConfigDict:
    """Returns ``config`` with these keys set to what the texts say: literals, or plain strings.

    Raises:
      ValueError: As ``sweep.override``.
    """
    types = {key: sweep.type_of(config, key) for key in texts}
    return sweep.override(config, {k: _value(text, types[k]) for k, text in texts.items()})


def _value(text: str, kind: Any) -> Any:
    if kind is str and text != "None":
        return text
    try:
        value = ast.literal_eval(text.capitalize() if text in ("true", "false") else text)
    except (ValueError, SyntaxError):
        return text
    return (value,) if kind is tuple and not isinstance(value, tuple | list) else value
