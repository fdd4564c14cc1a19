"""The README's example runs as it stands there."""

import re
from pathlib import Path

import jax

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_first_example_trains():
    (code, *_) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(code.strip().splitlines()) <= 10
    names = {}
    exec(code, names)
    first = names["loss"]({"kernel": jax.numpy.ones((3, 2))}, names["x"])
    assert names["loss"](names["params"], names["x"]) < 0.5 * first


def test_files_and_commands_it_names_exist():
    root = Path(__file__).parent.parent
    for name in re.findall(r"(?:configs|benchmarks|experiments|results)/[\w/.]+\w", README):
        assert (root / name).exists() or "NAME" in name, name
    for module in re.findall(r"python -m ((?:experiments|benchmarks)[\w.]+\w)", README):
        assert (root / (module.replace(".", "/") + ".py")).exists(), module
