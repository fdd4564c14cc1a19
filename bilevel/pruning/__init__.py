"""Pruning: masks, criteria, allocators, schedules, BiP and the methods it is judged against.

:func:`sparse_training` is IMP, OMP, one-shot and gradual magnitude pruning, random, SNIP, GraSP
and SynFlow, by the masks it is given; :func:`bip`, :func:`hydra` and :func:`jackpot` learn their
masks; :func:`dynamic_sparse` exchanges weights as it trains, :func:`nm_training` trains through N:M
masks. All are solvers of a :func:`problem`, which :func:`bilevel.solve` runs. :mod:`calibrated`
prunes a trained model once, from a few batches; :mod:`sharing` stores few numbers in place of few
weights.
"""

from bilevel.pruning import (
    allocate,
    calibrated,
    criteria,
    density,
    dynamic,
    export,
    masks,
    nm,
    retrain,
    sharing,
)
from bilevel.pruning._bip import bip
from bilevel.pruning._common import ScoreState, problem
from bilevel.pruning._global import global_masks
from bilevel.pruning._granet import granet
from bilevel.pruning._hydra import hydra
from bilevel.pruning._jackpot import jackpot
from bilevel.pruning._mask_updates import exchange
from bilevel.pruning._positions import output_positions
from bilevel.pruning._sap import sap_masks
from bilevel.pruning._sparse_training import (
    Exchange,
    Gradual,
    SparseState,
    next_round,
    set_anchor,
    sparse_training,
)
from bilevel.pruning.calibrated import calibrate
from bilevel.pruning.dynamic import DynamicState, dynamic_sparse
from bilevel.pruning.nm import NMState, nm_training
from bilevel.pruning.report import Layer, Report, pq_index, sap_count, sparsity_report
from bilevel.pruning.sharing import share

__all__ = [
    "DynamicState",
    "Exchange",
    "Gradual",
    "Layer",
    "NMState",
    "Report",
    "ScoreState",
    "SparseState",
    "allocate",
    "bip",
    "calibrate",
    "calibrated",
    "criteria",
    "density",
    "dynamic",
    "dynamic_sparse",
    "exchange",
    "export",
    "global_masks",
    "granet",
    "hydra",
    "jackpot",
    "masks",
    "next_round",
    "nm",
    "nm_training",
    "output_positions",
    "pq_index",
    "problem",
    "retrain",
    "sap_count",
    "sap_masks",
    "set_anchor",
    "share",
    "sharing",
    "sparse_training",
    "sparsity_report",
]
