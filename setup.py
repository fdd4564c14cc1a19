"""Packaging of optim and bilevel; tool settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

CORE = ["jax>=0.10", "optax>=0.2.8", "numpy>=2.0", "absl-py>=2.1", "ml_collections>=1.0"]
EXPERIMENTS = [
    "flax>=0.12.8",
    "grain>=0.2.18",
    "matplotlib>=3.9",
    "orbax-checkpoint>=0.12.8",
    "scikit-learn>=1.5",
    "scipy>=1.13",
    "tensorboardX>=2.6",
    "tqdm>=4.66",
]
TEST = [*EXPERIMENTS, "chex>=0.1.92", "hypothesis>=6.100", "pytest>=8", "pytest-xdist>=3.6"]
LINT = ["pyrefly==1.4.1", "ruff==0.17.5"]

setup(
    name="optim-bilevel",
    version="0.1.0",
    description="Optimizers, schedules and bilevel methods in JAX, true to their authors' code",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["optim", "optim.*", "bilevel", "bilevel.*"]),
    package_data={"optim": ["py.typed"], "bilevel": ["py.typed"]},
    install_requires=CORE,
    extras_require={
        "cuda": ["jax[cuda13]>=0.10"],
        "tpu": ["jax[tpu]>=0.10"],
        "experiments": EXPERIMENTS,
        "test": TEST,
        "dev": [*TEST, *LINT],
    },
)
