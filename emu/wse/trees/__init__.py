"""Reduce trees on a line of PEs: a specification, which formulas and programs both read.

A tree says who sends to whom and in which order a PE adds. It says neither when a word arrives,
which is the arrival formula's, nor on which colors and routes it travels, which is the program's:
so that two mechanisms that read one tree still share no code that could be wrong in both.
"""

from emu.wse.trees.best import auto
from emu.wse.trees.estimate import model_cycles
from emu.wse.trees.families import binary, chain, star, two_phase, two_tree
from emu.wse.trees.tree import Tree

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
