"""Pruning: masks, criteria, allocators, schedules, BiP and the methods it is judged against.

:func:`sparse_training` is IMP, OMP, one-shot and gradual magnitude pruning, random, SNIP, GraSP
and SynFlow, by the masks it is given; :func:`bip` and :func:`hydra` learn their masks. All
are solvers of a :func:`problem`, which :func:`bilevel.solve` runs.
"""

from bilevel.pruning import allocate, criteria, density, export, masks
from bilevel.pruning._bip import bip
from bilevel.pruning._common import ScoreState, problem
from bilevel.pruning._granet import granet
from bilevel.pruning._hydra import hydra
from bilevel.pruning._positions import output_positions
from bilevel.pruning._sparse_training import (
    Exchange,
    Gradual,
    SparseState,
    next_round,
    set_anchor,
    sparse_training,
)
from bilevel.pruning.report import Layer, Report, pq_index, sap_count, sparsity_report

__all__ = [
    "Exchange",
    "Gradual",
    "Layer",
    "Report",
    "ScoreState",
    "SparseState",
    "allocate",
    "bip",
    "criteria",
    "density",
    "export",
    "granet",
    "hydra",
    "masks",
    "next_round",
    "output_positions",
    "pq_index",
    "problem",
    "sap_count",
    "set_anchor",
    "sparse_training",
    "sparsity_report",
]
