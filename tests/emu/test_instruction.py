"""An instruction looks like the function that declares it."""

import inspect
import pydoc

import pytest

from emu import Instruction
from emu.trainium import isa
from emu.trainium.isa import nc_matmul, tensor_tensor

INSTRUCTIONS = {n: x for n, x in vars(isa).items() if isinstance(x, Instruction)}


def test_the_signature_is_the_real_one():
    names = list(inspect.signature(nc_matmul).parameters)
    assert names[:3] == ["dst", "stationary", "moving"]
    assert "op" in inspect.signature(tensor_tensor).parameters
    assert repr(nc_matmul).startswith("<instruction trn.nc_matmul(dst")


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_help_shows_what_an_instruction_does(name):
    shown = INSTRUCTIONS[name]
    doc = inspect.getdoc(shown)
    assert doc and doc != inspect.getdoc(Instruction)
    text = pydoc.plain(pydoc.render_doc(shown))
    assert doc.splitlines()[0] in text
    first = next(iter(inspect.signature(shown).parameters), "")
    assert first in text
