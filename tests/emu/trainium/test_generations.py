"""A Trainium generation is one datasheet file: nothing else compares or lists generations."""

import ast
import dataclasses
import pathlib

import pytest

from emu import Quantity
from emu.errors import LimitExceeded
from emu.trainium import isa
from emu.trainium.datasheets import GENERATIONS, SYSTEMS, TRN2, TRN3
from emu.trainium.datasheets.sheet import DMA_QUEUES
from tests.emu.trainium import operands

ROOT = pathlib.Path(__file__).parents[3]
DATASHEETS = ROOT / "emu" / "trainium" / "datasheets"
FOLDERS = ("emu", "kernels", "models", "experiments", "trn_wse")
FILES = [
    file
    for folder in FOLDERS
    for file in sorted((ROOT / folder).rglob("*.py"))
    if DATASHEETS not in file.parents
]
# `TRN2` in code, `trn2` on a command line, `Trainium2` in a report.
NAMES = {key.upper() for key in GENERATIONS}
WORDS = {*GENERATIONS, *(sheet.name for sheet in GENERATIONS.values())}


def is_generation(node):
    if isinstance(node, ast.Name):
        return node.id in NAMES
    return isinstance(node, ast.Constant) and node.value in WORDS


def listed(node):
    """The elements of a list, set or tuple, or a dictionary's keys and values."""
    if isinstance(node, ast.Dict):
        return [*node.keys, *node.values]
    return node.elts if isinstance(node, ast.List | ast.Set | ast.Tuple) else []


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_no_other_file_compares_or_lists_generations(file):
    """One generation may be named: as the default of an argument, or in a chosen system.

    That is a choice, which a new generation leaves as it is. A comparison, a list of several, or
    the number of a generation is an assumption, which it would break.
    """
    for node in ast.walk(ast.parse(file.read_text())):
        where = f"line {getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Attribute):
            assert node.attr != "generation", where
        if isinstance(node, ast.Compare):
            assert not any(map(is_generation, [node.left, *node.comparators])), where
        assert sum(map(is_generation, listed(node))) <= 1, where


def test_every_datasheet_file_is_listed():
    files = {file.stem for file in DATASHEETS.glob("trn*.py")}
    assert files == GENERATIONS.keys()
    assert {system.generation for system in SYSTEMS} == {
        sheet.generation for sheet in GENERATIONS.values()
    }


def test_an_unknown_generation_is_priced_by_its_sheet_alone():
    """A Trainium4 that nobody has heard of: Trainium3 with a number of its own, and a few less."""
    fields = {
        "fast_bytes": (1,),
        "extra_instructions": TRN2.extra_instructions.value,
        "scalar_elementwise": False,
        "vector_access_cycles": 0,
    }
    sheet = dataclasses.replace(
        TRN3,
        name="Trainium4",
        generation=5,
        **{k: Quantity(v, "published", "made up") for k, v in fields.items()},
    )
    device = sheet.at()
    tile = operands.sbuf(128, 512, dtype=operands.BF16)
    copy = isa.tensor_copy
    # No fast mode for 16-bit floats: one element a cycle.
    assert copy.cost(device, tile, tile).busy_cycles == 512
    byte = operands.sbuf(128, 512, dtype=operands.E4M3)
    assert copy.cost(device, byte, byte).busy_cycles == 512 / 4
    with pytest.raises(LimitExceeded, match="must be vector or gpsimd"):
        copy.cost(device, tile, tile, engine="scalar")
    with pytest.raises(LimitExceeded, match="must be Trainium3"):
        isa.rand2.cost(device, tile, operands.REGISTER, low=0.0, high=1.0)
    assert device.ticks_per_cycle.keys() >= {*DMA_QUEUES}
