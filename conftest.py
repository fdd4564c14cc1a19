"""Test session: eight virtual CPU devices, no silent rank promotion, cheap compilations."""

import gc
import os
from importlib.metadata import version
from pathlib import Path

# XLA:CPU splits work by core count, and the split changes bits.
os.environ.setdefault("NPROC", "2")
# Most of the time is the compilation of programs that then run for milliseconds. The emitters of
# fusions take three quarters of a compilation; without them the same fusions are built by LLVM.
# Later versions have no others, and XLA ends the process at a flag that it does not know.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_backend_optimization_level=0",
        "--xla_cpu_parallel_codegen_split_count=1",
        *["--xla_cpu_use_fusion_emitters=false"] * version("jaxlib").startswith("0.10."),
    ]
)

import functools

import jax
import pytest
from jax._src.interpreters import mlir

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent / ".pytest_cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
# Source lines in a program are a sixth of its tracing and lowering, and nothing here reads them.
jax.config.update("jax_traceback_in_locations_limit", 0)

# A context of MLIR takes more than half of the lowering of a small program; one serves them all.
mlir.make_ir_context = functools.cache(mlir.make_ir_context)
# What a worker keeps is alive to its end: looking through it rarely is enough.
gc.set_threshold(100_000, 20, 50)


def pytest_collection_finish():
    # What the imports left is no garbage, and the collector need not look there again and again.
    gc.freeze()


@pytest.fixture
def users_compiler():
    """Options of a compilation as users have it, where a test counts bytes or copies."""
    chosen = "xla_cpu_use_fusion_emitters" in os.environ["XLA_FLAGS"]
    return {"xla_cpu_use_fusion_emitters": True} if chosen else {}
