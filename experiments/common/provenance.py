"""Where numbers come from: the machine, the versions, the code."""

import hashlib
import os
import platform
from pathlib import Path

__all__ = ["machine", "source", "versions"]


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
