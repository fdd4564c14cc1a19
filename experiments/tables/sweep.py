"""Sweep algebra: many configs from one readable expression over dotted config keys.

Expressions are for the command line. An expression names keys and values and combines them with
three words::

  optimizer.learning_rate=[1e-3, 3e-3]                                       2 points
  product(optimizer.name=[adamw, lion], seed=range(5))                      10 points
  zip(optimizer.name=[adamw, lion], optimizer.learning_rate=[1e-3, 1e-4])    2 points
  chain(product(optimizer.name=adamw, seed=range(5)), optimizer.name=sgd)    6 points

The words nest. Commas at the top level mean ``product``. A value is a number, a string (bare words
need no quotes), ``True``, ``False``, ``None``, or a tuple of values; ``range(n)`` and
``range(a, b)`` count. A point is a dict ``{dotted key: value}``.
"""

import ast
import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections

from experiments.common.config_files import override

__all__ = [
    "chain",
    "configs",
    "parse",
    "points",
    "product",
    "read",
    "text",
    "zipped",
]

Point = dict[str, Any]

_TOKEN = re.compile(
    r"""\s*(?:(?P<mark>[()\[\],=])|(?P<quoted>'[^']*'|"[^"]*")|(?P<word>[^\s()\[\],='"]+))"""
)


def points(key: str, values: Iterable[Any]) -> list[Point]:
    """One point for each value of one key."""
    return [{key: value} for value in values]


def product(*sweeps: list[Point]) -> list[Point]:
    """Every combination of one point from each sweep; the last varies fastest."""
    return [_join(combination) for combination in itertools.product(*sweeps)]


def zipped(*sweeps: list[Point]) -> list[Point]:
    """The i-th points of all sweeps together; the sweeps must be equally long."""
    lengths = [len(sweep) for sweep in sweeps]
    if len(set(lengths)) > 1:
        names = [f"{' and '.join(s[0])} has {len(s)}" if s else "one has 0" for s in sweeps]
        raise ValueError(f"zip needs sweeps of equal length: {', '.join(names)}")
    return [_join(combination) for combination in zip(*sweeps, strict=True)]


def chain(*sweeps: list[Point]) -> list[Point]:
    """All points of the first sweep, then all of the second, and so on."""
    return list(itertools.chain(*sweeps))


def parse(expression: str) -> list[Point]:
    """Returns the points of an expression, in order; an empty one has the single point ``{}``.

    Args:
      expression: As in the head of this file.

    Returns:
      A list of dicts from dotted keys to values, without duplicates.

    Raises:
      ValueError: If the expression does not parse (the place is marked), sets a key twice, zips
        unequal lengths, or names the same point twice.

    Example:
      >>> parse("zip(optimizer.name=[adamw, lion], optimizer.b1=[0.9, 0.95])")
      [{'optimizer.name': 'adamw', 'optimizer.b1': 0.9},
       {'optimizer.name': 'lion', 'optimizer.b1': 0.95}]
    """
    return _distinct(_Parser(expression).whole())


def read(value: str | Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> list[Point]:
    """Returns the points that a Python file writes down.

    Args:
      value: Axes ``{key: values}``, whose product is taken, the last varying fastest; a key whose
        value is not a list or a range has that one value. Or a sequence of points. Or an
        expression, as on the command line.

    Returns:
      A list of dicts from dotted keys to values.

    Raises:
      ValueError: As :func:`parse`, or if an axis is empty.

    Example:
      >>> read({"optimizer.name": "lion", "optimizer.b1": [0.9, 0.95]})
      [{'optimizer.name': 'lion', 'optimizer.b1': 0.9},
       {'optimizer.name': 'lion', 'optimizer.b1': 0.95}]
    """
    if isinstance(value, str):
        return parse(value)
    if not isinstance(value, Mapping):
        return _distinct([dict(point) for point in value])
    axes = []
    for key, values in value.items():
        axes.append(points(str(key), values if isinstance(values, list | range) else [values]))
        if not axes[-1]:
            raise ValueError(f"{key} has an empty list of values")
    return _distinct(product(*axes))


def text(point: Mapping[str, Any]) -> str:
    """A point as an expression, which parses back to it.

    Example:
      >>> text({"optimizer.name": "lion", "optimizer.learning_rate": 1e-4})
      'optimizer.name=lion, optimizer.learning_rate=0.0001'
    """
    return ", ".join(f"{key}={_value_text(value)}" for key, value in point.items())


def configs(
    config: ml_collections.ConfigDict, expression: str
) -> list[tuple[str, ml_collections.ConfigDict]]:
    """Returns ``(text, config)`` for each point of the expression, for ``--sweep`` of one main.

    Raises:
      ValueError: As :func:`parse` and ``config_files.override``, or if two points give equal
        configs.
    """
    result: list[tuple[str, ml_collections.ConfigDict]] = []
    for point in parse(expression):
        new = override(config, point)
        for name, old in result:
            if old.to_dict() == new.to_dict():
                raise ValueError(f"duplicate runs: {name!r} and {text(point)!r} are the same")
        result.append((text(point), new))
    return result


def _distinct(found: list[Point]) -> list[Point]:
    seen: dict[str, int] = {}
    for i, point in enumerate(found):
        first = seen.setdefault(repr(sorted(point.items())), i)
        if first != i:
            raise ValueError(f"points {first + 1} and {i + 1} are the same: {text(point)}")
    return found


def _join(parts: Iterable[Point]) -> Point:
    result: Point = {}
    for part in parts:
        for key, value in part.items():
            if key in result:
                raise ValueError(f"key {key} is set twice in one point: {result[key]!r}, {value!r}")
            result[key] = value
    return result


def _value_text(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_value_text, value))}{',' * (len(value) == 1)})"
    if isinstance(value, str) and _read(value) == value and _TOKEN.fullmatch(value):
        return value
    return repr(value)


def _read(word: str) -> Any:
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return word


class _Parser:
    """Recursive descent over the tokens of one expression."""

    def __init__(self, expression: str):
        self.expression, self.tokens, self.at = expression, [], 0
        end = 0
        while expression[end:].strip():
            match = _TOKEN.match(expression, end)
            if match is None or match.lastgroup is None:
                raise self.error("unclosed quote", end)
            self.tokens.append((match[match.lastgroup], match.lastgroup, match.start(0)))
            end = match.end()

    def error(self, message: str, place: int | None = None) -> ValueError:
        if place is None:
            place = self.tokens[self.at][2] if self.at < len(self.tokens) else len(self.expression)
        marked = f"{self.expression[:place]} >>> {self.expression[place:]}"
        return ValueError(f"sweep expression: {message}, at the mark in {marked.strip()!r}")

    def peek(self, ahead: int = 0) -> tuple[str, str]:
        at = self.at + ahead
        return self.tokens[at][:2] if at < len(self.tokens) else ("", "end")

    def take(self, mark: str) -> None:
        if self.peek() != (mark, "mark"):
            raise self.error(f"expected {mark!r}")
        self.at += 1

    def several(self, item, close: str) -> list:
        """Items between commas, up to the closing mark; a comma may trail."""
        items = []
        while self.peek() != (close, "mark"):
            items.append(item())
            if self.peek() != (close, "mark"):
                self.take(",")
        self.take(close)
        return items

    def whole(self) -> list[Point]:
        parts = []
        while self.peek()[1] != "end":
            parts.append(self.sweep())
            if self.peek()[1] != "end":
                self.take(",")
        return product(*parts)

    def sweep(self) -> list[Point]:
        word, kind = self.peek()
        if kind != "word":
            raise self.error("expected key=value, product(...), zip(...) or chain(...)")
        self.at += 1
        if self.peek() == ("(", "mark"):
            combine = {"product": product, "zip": zipped, "chain": chain}.get(word)
            if combine is None:
                self.at -= 1
                raise self.error(f"unknown word {word!r}; there are product, zip and chain")
            self.at += 1
            return combine(*self.several(self.sweep, ")"))
        self.take("=")
        return points(word, self.values())

    def values(self) -> list[Any]:
        if self.peek() == ("[", "mark"):
            self.at += 1
            values = self.several(self.value, "]")
            if not values:
                raise self.error("an empty list of values")
            return values
        if self.peek() == ("range", "word") and self.peek(1) == ("(", "mark"):
            self.at += 2
            bounds = self.several(self.value, ")")
            if len(bounds) not in (1, 2) or not all(type(b) is int for b in bounds):
                raise self.error("range takes one or two whole numbers")
            return list(range(*bounds))
        return [self.value()]

    def value(self) -> Any:
        word, kind = self.peek()
        if (word, kind) == ("(", "mark"):
            self.at += 1
            return tuple(self.several(self.value, ")"))
        if kind not in ("word", "quoted"):
            raise self.error("expected a value")
        self.at += 1
        return word[1:-1] if kind == "quoted" else _read(word)
