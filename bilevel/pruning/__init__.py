"""Pruning: masks, criteria, allocators, schedules, BiP and the methods it is judged against."""

from bilevel.pruning import allocate, criteria, density, masks
from bilevel.pruning.bip import bip
from bilevel.pruning.report import pq_index, sap_count, sparsity_report

__all__ = [
    "allocate",
    "bip",
    "criteria",
    "density",
    "masks",
    "pq_index",
    "sap_count",
    "sparsity_report",
]
