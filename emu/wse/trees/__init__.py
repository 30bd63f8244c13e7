"""Reduce trees on a line of PEs: a specification, which formulas and programs both read."""

from emu.wse.trees.best import auto
from emu.wse.trees.families import (
    Tree,
    binary,
    chain,
    model_cycles,
    star,
    two_phase,
    two_tree,
)

__all__ = [
    "Tree",
    "auto",
    "binary",
    "chain",
    "model_cycles",
    "star",
    "two_phase",
    "two_tree",
]
