"""Test session: eight virtual CPU devices, no silent rank promotion, one compilation cache."""

import os
from pathlib import Path

# XLA:CPU splits work by core count, and the split changes bits.
os.environ.setdefault("NPROC", "2")
# Nine tenths of the time is the compilation of programs that then run for milliseconds.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent / ".pytest_cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
