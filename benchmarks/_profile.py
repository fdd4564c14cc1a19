"""Where the time of a compiled program goes on a CPU, by a trace of jax.profiler."""

import collections
import gzip
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

__all__ = ["KINDS", "kinds_of", "shares"]

# The first of these that is part of an operation is its kind.
KINDS = {
    "convolutions": ("convolution",),
    "products": ("dot",),
    "sums": ("reduce", "reduce-window", "select-and-scatter"),
    "copies and transpositions": ("copy", "transpose"),
}
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%([\w.-]+) = .*?[\])}] ([a-z][a-z-]*)\(")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%([\w.-]+)")


def kinds_of(text: str) -> dict[str, str]:
    """Returns the kind of each instruction of compiled HLO, ``"the rest"`` for none of KINDS."""
    inside: dict[str, set[str]] = collections.defaultdict(set)
    where, found = "", {}
    for line in text.splitlines():
        begin = re.match(r"^(?:ENTRY )?%([\w.-]+) \(", line)
        if begin:
            where = begin[1]
        instruction = _INSTRUCTION.match(line)
        if instruction:
            called = {op for name in _CALLED.findall(line) for op in inside[name]}
            operations = {instruction[2]} | called
            inside[where] |= operations
            kinds = (kind for kind, ops in KINDS.items() if operations & set(ops))
            found[instruction[1]] = next(kinds, "the rest")
    return found


def shares(compiled: Any, run: Callable[[], Any]) -> dict[str, float]:
    """Returns the share of each kind of operation in the time of ``run``, which calls ``compiled``.

    Times of threads are added up; what is not an operation of the program is left out, as are the
    threads of XLA's own convolutions.
    """
    kinds = kinds_of(compiled.as_text())
    jax.block_until_ready(run())
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(run())
        (file,) = Path(folder).glob("**/*.trace.json.gz")
        events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    spent = dict.fromkeys([*KINDS, "the rest"], 0.0)
    for event in events:
        if event.get("ph") == "X" and event["name"] in kinds:
            spent[kinds[event["name"]]] += event["dur"]
    total = sum(spent.values())
    return {kind: time / total for kind, time in spent.items()}
