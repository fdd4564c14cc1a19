"""Config files with their argument, and what the command line changes in them."""

import ast
import contextlib
import copy
import functools
import importlib
import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
from ml_collections import ConfigDict

from optim import _checks

__all__ = [
    "OPEN",
    "cached",
    "check_counts",
    "load",
    "module",
    "override",
    "override_texts",
    "overrides",
    "split",
    "text",
]

ROOT = Path(__file__).parents[2]
# Groups of keys that take further ones: what they are passed to knows and checks them.
OPEN = ("options", "optimizer", "schedule", "gradient")


def module(path: Path):
    """Returns the module of a file."""
    if not path.is_file():
        raise ValueError(f"there is no config file {path}")
    spec = importlib.util.spec_from_file_location(re.sub(r"\W", "_", path.stem), path)
    if spec is None or spec.loader is None:
        raise ValueError(f"config file {path} must end in .py")
    found = importlib.util.module_from_spec(spec)
    with _configs_package(path):
        spec.loader.exec_module(found)
    return found


@contextlib.contextmanager
def _configs_package(path: Path) -> Iterator[None]:
    """What ``import configs`` finds in a config file, whatever folder of that name the user has.

    A file of this project finds this project's; any other file its own, and this project's after.
    """
    ours = ROOT / "configs"
    if not path.resolve().is_relative_to(ours):
        with contextlib.suppress(ImportError):
            package = importlib.import_module("configs")
            if str(ours) not in package.__path__:
                package.__path__.append(str(ours))
        yield
        return
    loaded = sys.modules.get("configs")
    if loaded is not None and str(ours) == next(iter(loaded.__path__)):
        yield
        return
    theirs = {name: sys.modules.pop(name) for name in _modules_of("configs")}
    sys.path.insert(0, str(ROOT))
    try:
        yield
    finally:
        sys.path.remove(str(ROOT))
        for name in _modules_of("configs"):
            del sys.modules[name]
        sys.modules.update(theirs)


def _modules_of(package: str) -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] == package]


def split(name: str) -> tuple[Path, str]:
    """Returns file and argument of ``FILE`` or ``FILE:argument``; a path may hold colons too.

    Example:
      >>> path, argument = split("configs/digits.py:smoke")
      >>> path.name, argument
      ('digits.py', 'smoke')
    """
    cuts = [len(name), *(i for i in range(len(name) - 1, 0, -1) if name[i] == ":")]
    for cut in cuts:  # The longest path that exists.
        for path in (Path(name[:cut]).expanduser(), ROOT / name[:cut]):
            if path.is_file():
                return path, name[cut + 1 :]
    file, _, argument = name.partition(":")
    return Path(file).expanduser(), argument


def load(name: str) -> ConfigDict:
    """Returns the config of ``FILE`` or ``FILE:argument``; FILE may be relative to the repository.

    Raises:
      ValueError: There is no such file, or it does not know the argument.
    """
    path, argument = split(name)
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


def override_texts(config: ConfigDict, texts: Mapping[str, str]) -> ConfigDict:
    """Returns ``config`` with these keys set to what the texts say: literals, or plain strings.

    Raises:
      ValueError: As :func:`override`.
    """
    named = {}
    for key, value in texts.items():  # --config.gradient=rge sets gradient.name.
        by_name = _is_choice(config, key) and value.isidentifier()
        named[f"{key}.name" if by_name else key] = value
    return override(config, {key: _value(value, config, key) for key, value in named.items()})


def _is_choice(config: ConfigDict, key: str) -> bool:
    """Whether a group holds no more than a name: another one leaves no keys that do not fit it."""
    try:
        group = _node(config, key)
    except (KeyError, TypeError):
        return False
    return isinstance(group, ConfigDict) and list(group) == ["name"]


def _value(value: str, config: ConfigDict, key: str) -> Any:
    parent, _, name = key.rpartition(".")
    kind = _node(config, parent).get_type(name) if key in _keys(config) else None
    if value == "True" and kind in (str, tuple):  # --config.model.name without a value.
        raise ValueError(f"{key} holds {_node(config, key)!r} and cannot be set to True")
    if kind is str and value != "None":
        return value
    try:
        read = ast.literal_eval(value.capitalize() if value in ("true", "false") else value)
    except (ValueError, SyntaxError):
        return value
    return (read,) if kind is tuple and not isinstance(read, tuple | list) else read


def override(config: ConfigDict, point: Mapping[str, Any]) -> ConfigDict:
    """Returns a copy of ``config`` with the keys of ``point`` set.

    Args:
      config: Any config; it stays as it is.
      point: Dotted keys and values. A number for a field that holds a float becomes a float. A
        group of :data:`OPEN` takes new keys. Another ``model.name`` starts from no
        ``model.options``.

    Returns:
      A copy, locked if ``config`` is.

    Raises:
      ValueError: If a key does not exist (the nearest existing one is named), or a value does not
        fit the type of the field.
    """
    known = _keys(config)
    result = copy.deepcopy(config)
    for key, value in point.items():
        if re.search(r"(^|\.)model\.name$", key) and key in known:
            model = _node(result, key.rpartition(".")[0])
            if model.name != value and "options" in model:
                with model.unlocked():
                    model.options = ConfigDict()
    for key, value in point.items():
        parent, _, name = key.rpartition(".")
        if key not in known and not _is_open(config, parent):
            raise ValueError(f"the config has no key {key!r}; nearest: {_nearest(key, known)}")
        node = _node(result, parent)
        numeric = name in node and node.get_type(name) in (int, float)
        if (isinstance(value, bool) and numeric) or (value is None and name == "name"):
            raise ValueError(f"{key} holds {node[name]!r} and cannot be set to {value!r}")
        try:
            with node.unlocked():
                node[name] = value
        except TypeError as error:
            raise ValueError(
                f"{key} holds {node[name]!r} and cannot be set to {value!r}"
            ) from error
    return result


def _keys(config: ConfigDict, prefix: str = "") -> list[str]:
    """Dotted names of all fields that can be set; of groups, only those named ``options``."""
    names = []
    for key, value in config.items():
        group = isinstance(value, ConfigDict)
        if not group or key == "options":
            names.append(f"{prefix}{key}")
        if group:
            names += _keys(value, f"{prefix}{key}.")
    return names


def _is_open(config: Any, dotted: str) -> bool:
    """Whether the group of that name exists and takes new keys."""
    if not dotted:
        return False
    for part in dotted.split("."):
        if not isinstance(config, ConfigDict) or part not in config:
            return False
        config = config[part]
    return isinstance(config, ConfigDict) and dotted.split(".")[-1] in OPEN


def _node(config: Any, dotted: str) -> Any:
    for part in filter(None, dotted.split(".")):
        config = config[part]
    return config


def _nearest(key: str, names: list[str]) -> str:
    """A key of that last name, or in a group of that name, before the most similar one."""
    like = [k for k in names if k.rpartition(".")[2] == key.rpartition(".")[2]]
    like += [f"{key}.name"] * (f"{key}.name" in names)
    like += [k for k in names if k.startswith(f"{key}.")]
    return like[0] if like else _checks.nearest(key, names).removeprefix("nearest: ")


def check_counts(config: Any, *keys: str) -> None:
    """Raises ``ValueError`` for one of these keys, where the config has it, that is no count."""
    for key in keys:
        value = config.get(key, 1)
        if value is not None or key not in ("steps", "eval_every", "save_every"):
            _checks.count(key, value)
        if key == "steps" and value is not None and value >= 2**31:  # States count in int32.
            raise ValueError(f"a run may have up to {2**31 - 1} steps, got {value}")


def text(config: ConfigDict, without: Mapping[str, Any] | None = None) -> str:
    """Returns ``config`` as JSON, with the values of the dotted keys ``without`` in its place.

    A key that the config lacks, or whose value is ``None``, stays as it is.
    """
    tree = json.loads(config.to_json_best_effort())
    for key, value in (without or {}).items():
        *groups, name = key.split(".")
        node = functools.reduce(lambda node, group: node.get(group, {}), groups, tree)
        if node.get(name) is not None:
            node[name] = value
    return json.dumps(tree, sort_keys=True)


def cached(without: Mapping[str, Any] | None = None, maxsize: int = 16) -> Callable[[Any], Any]:
    """Decorates ``build(config, *arguments)`` so that equal configs get the same object.

    The loop compiles a step once per function object: runs that differ in the keys of ``without``
    only, which ``build`` sees with the values given here, then share one program.
    """

    def decorate(build):
        @functools.lru_cache(maxsize=maxsize)
        def by_text(content, *arguments):
            return build(ml_collections.ConfigDict(json.loads(content)), *arguments)

        @functools.wraps(build)
        def by_config(config, *arguments):
            return by_text(text(config, without), *arguments)

        return by_config

    return decorate
