"""Arrows between modules point one way, imports inside of functions and for types included."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "optim": {"optim"},
    "bilevel": {"optim", "bilevel"},
    "experiments": {"optim", "bilevel", "experiments"},
    "configs": {"configs"},
}
OURS = {*MAY_IMPORT, "benchmarks", "tests"}


def modules(package):
    """{dotted name: file}; a package goes by its own name."""
    files = {}
    for file in sorted((ROOT / package).rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return files


KNOWN = {name: file for package in MAY_IMPORT for name, file in modules(package).items()}


def imported(name, known):
    """The modules that an import anywhere in ``name`` names, ours by their full names."""
    found = set()
    for node in ast.walk(ast.parse(known[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} imports by a relative path"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in known else node.module)
    return found


def circle(graph):
    """A list of modules each of which imports the next, the last the first; or None."""
    done, path = set(), []

    def visit(name):
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return None
        path.append(name)
        for other in sorted(graph[name]):
            if found := visit(other):
                return found
        done.add(path.pop())
        return None

    return next((found for name in sorted(graph) if (found := visit(name))), None)


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": set(), "d": {"a"}}) is None
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"a"}}) == ["a", "a"]


def test_no_import_circle():
    graph = {name: imported(name, KNOWN) & KNOWN.keys() for name in KNOWN}
    assert sum(map(len, graph.values())) > 200
    assert circle(graph) is None


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_arrows_point_one_way(package):
    for name, file in modules(package).items():
        tops = {other.split(".")[0] for other in imported(name, KNOWN)}
        assert tops & OURS <= MAY_IMPORT[package], file


def test_configs_hold_no_logic_of_others():
    for name in modules("configs"):
        tops = {other.split(".")[0] for other in imported(name, KNOWN)}
        assert tops <= {"configs", "ml_collections", "itertools", "math", "functools"}, name
