"""Packaging; the settings of tools are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "optim/__init__.py").read_text("utf-8"))[1]

# What optim and bilevel import.
CORE = ["jax>=0.10.2", "numpy>=2.0", "optax>=0.2.8"]
EXPERIMENTS = [
    "absl-py>=2.3.1",
    "flax>=0.12.8",
    "grain>=0.2.18",
    "matplotlib>=3.10.7",
    "ml_collections>=1.0",
    "orbax-checkpoint>=0.12.8",
    "scikit-learn>=1.5.1",
    "scipy>=1.14",
    "tensorboardX>=2.6.2.2",
    "tqdm>=4.66",
]
TEXT = ["tokenizers>=0.21"]
TEST = [
    *EXPERIMENTS,
    *TEXT,
    "equinox>=0.13.2",
    "hypothesis>=6.100",
    "pytest>=8",
    "pytest-xdist>=3.6.1",
]
DOCS = [
    "furo>=2025.9",
    "myst-parser>=4.0",
    "sphinx>=8.2",
    "sphinx-gallery>=0.19",
    "sphinx-mathjax-offline>=0.0.2",  # The site needs no network.
]
LINT = ["pyrefly==1.4.1", "ruff==0.17.5"]

setup(
    name="optim-bilevel",
    version=VERSION,
    description="Optimizers, schedules and bilevel methods in JAX, true to their authors' code",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    keywords="jax optax optimizer learning-rate schedule bilevel pruning sparsity",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Mathematics",
        "Typing :: Typed",
    ],
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    # The mains and their configs come along; what they need is the extra "experiments".
    packages=[
        name
        for package in ("optim", "bilevel", "experiments", "configs")
        for name in find_packages(include=[package, f"{package}.*"])
    ],
    package_data={"optim": ["py.typed"], "bilevel": ["py.typed"], "configs": ["*/*.json"]},
    install_requires=CORE,
    extras_require={
        "cuda": ["jax[cuda13]>=0.10.2"],
        "tpu": ["jax[tpu]>=0.10.2"],
        "experiments": EXPERIMENTS,
        "text": [*EXPERIMENTS, *TEXT],
        "test": TEST,
        "docs": [*EXPERIMENTS, *DOCS],
        "dev": [*TEST, *LINT],
    },
)
