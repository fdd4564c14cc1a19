"""What is installed, what it needs, and that a source distribution is whole."""

import ast
import re
import sys
from pathlib import Path

import bilevel
import optim

ROOT = Path(__file__).parent.parent
SETUP = (ROOT / "setup.py").read_text(encoding="utf-8")


def requirements(name):
    (group,) = re.findall(rf"^{name} = (\[.*?\])$", SETUP, flags=re.DOTALL | re.MULTILINE)
    return {re.match(r"[\w-]+", text)[0].lower() for text in re.findall(r'"(.+?)"', group)}


def imported(folder):
    """Packages that the files of a folder import when they are imported themselves."""
    found = set()
    for file in (ROOT / folder).rglob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            found |= {name.partition(".")[0] for name in names}
    return found - set(sys.stdlib_module_names)


def test_the_packages_have_one_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+", optim.__version__)
    assert bilevel.__version__ == optim.__version__


def test_the_core_needs_what_it_imports_and_no_more():
    needed = (imported("optim") | imported("bilevel")) - {"optim", "bilevel"}
    assert needed == requirements("CORE")


def test_the_extra_of_the_mains_is_what_they_import():
    names = {"absl-py": "absl", "scikit-learn": "sklearn", "orbax-checkpoint": "orbax"}
    given = {names.get(name, name) for name in requirements("EXPERIMENTS")}
    own = {"optim", "bilevel", "experiments", "configs", "benchmarks"}
    needed = imported("experiments") | imported("configs")
    assert needed - own - requirements("CORE") <= {name.lower() for name in given}


def test_a_source_distribution_has_every_folder_of_code_and_tests():
    manifest = (ROOT / "MANIFEST.in").read_text()
    grafted = set(re.findall(r"^graft (\w+)", manifest, re.MULTILINE))
    packaged = {"optim", "bilevel"}
    folders = {f.name for f in ROOT.iterdir() if f.is_dir() and any(f.glob("*.py"))}
    assert folders - {"build", "dist", "runs"} <= grafted | packaged
    files = {f.name for f in ROOT.iterdir() if f.suffix in {".md", ".toml"}}
    assert files | {"LICENSE", "conftest.py"} <= set(re.findall(r"[\w.]+", manifest))
