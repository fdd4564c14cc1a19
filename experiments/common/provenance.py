"""Where numbers come from: the machine, the versions, the code."""

import ast
import hashlib
import importlib.util
import os
import platform
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

__all__ = ["commit", "machine", "own_code", "source", "versions"]


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    import flax
    import jax
    import jaxlib
    import numpy
    import optax

    modules = {"jax": jax, "jaxlib": jaxlib, "optax": optax, "flax": flax, "numpy": numpy}
    found = {name: str(module.__version__) for name, module in modules.items()}
    return {"python": platform.python_version(), **found}


def machine() -> str:
    """The kind of machine, such as ``2 cores of AMD EPYC, CPU only``."""
    import jax

    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{jax.device_count()} x {device.device_kind}"
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        name = models[0] if models else name
    known = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return f"{cores} core{'s' * (cores > 1)} of {name}, CPU only"


def source() -> str:
    """Eight hex digits over the code of this project, to tell results of another version."""
    root, sha = Path(__file__).parents[2], hashlib.sha256()
    for folder in ("optim", "bilevel", "experiments"):
        for path in sorted((root / folder).rglob("*.py")):
            sha.update(path.read_bytes())
    return sha.hexdigest()[:8]


def own_code(*paths: Path) -> str:
    """Eight hex digits over the code that a config or optimizer file brings along.

    That is the file and every module it imports, at whatever depth, that is neither installed nor
    part of this project: models, data and optimizers of one's own. A file that imports no more
    than the helpers of configs only sets keys, and counts for nothing.
    """
    root = Path(__file__).parents[2]
    known = [root / folder for folder in ("optim", "bilevel", "experiments")]
    known += [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")]
    todo, texts = [path.resolve() for path in paths], {}
    while todo:
        path = todo.pop()
        installed = not {"site-packages", "dist-packages"}.isdisjoint(path.parts)
        if path in texts or installed or any(path.is_relative_to(k) for k in known):
            continue
        content = path.read_bytes()
        names = list(_imported(content))
        only_keys = {name.partition(".")[0] for name in names} <= {"configs", "ml_collections"}
        texts[path] = b"" if only_keys and path.is_relative_to(root / "configs") else content
        for name in names:
            try:
                spec = importlib.util.find_spec(name)
            except (ImportError, ValueError):
                continue  # Not a module, but a name in one.
            if spec is not None and spec.origin and spec.origin.endswith(".py"):
                todo.append(Path(spec.origin).resolve())
    sha = hashlib.sha256()
    for content in sorted(texts.values()):
        sha.update(content)
    return sha.hexdigest()[:8]


def _imported(content: bytes) -> Iterator[str]:
    """Yields the dotted names that a file imports, wherever it does."""
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def commit() -> str:
    """Returns the commit that the code is at, with a ``+`` if files differ from it, or ``""``."""
    root = Path(__file__).parents[2]
    try:
        head, changed = (
            subprocess.run(
                ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
            ).stdout.strip()
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head[:12] + "+" * bool(changed)
