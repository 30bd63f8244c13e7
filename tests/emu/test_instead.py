"""Plain arithmetic on a tile is refused with the instruction to call, which exists."""

import re

import jax
import jax.numpy as jnp
import pytest

from emu import Program
from emu.errors import NoCostRule
from emu.instruction import registered
from emu.trainium import TRN2, dma_load, dma_store, sbuf
from emu.trainium.datasheets import instead as neuroncore
from emu.wse.datasheets import instead as wafer
from emu.wse.pe import isa, maps, scalar  # noqa: F401  declare the PE's instructions

TILE = jax.ShapeDtypeStruct((128, 128), jnp.float32)
DECLARED = {inst.name for inst in registered()}
CALLED = re.compile(r"\b([a-z_0-9]+)(?:\.at\[[^]]*\])?\(")


@pytest.mark.parametrize("primitive", neuroncore.INSTEAD)
def test_what_a_neuroncore_has_instead(primitive):
    for name in CALLED.findall(neuroncore.INSTEAD[primitive]):
        assert f"trn.{name}" in DECLARED


@pytest.mark.parametrize("primitive", wafer.INSTEAD)
def test_what_a_pe_has_instead(primitive):
    for name in CALLED.findall(wafer.INSTEAD[primitive]):
        assert f"wse.{name}" in DECLARED


@pytest.mark.parametrize(
    "function, said",
    [
        (lambda x: x + x, "'add': call tensor_tensor(dst, a, b, op=\"add\")"),
        (jnp.exp, "'exp': call activation(dst, x, op=\"exp\")"),
        (lambda x: x @ x, "'dot_general': call nc_matmul("),
        (lambda x: x.astype(jnp.bfloat16), "call tensor_copy(dst, x) into a tile of"),
    ],
)
def test_it_is_named_with_the_line(function, said):
    def kernel(x):
        return dma_store(function(dma_load(sbuf(128, 128), x)))

    program = Program(kernel, {"core": 1}, ((),))
    with pytest.raises(NoCostRule, match=re.escape(said)) as refused:
        program.read(TRN2.at(), TILE)
    assert "test_instead.py:" in str(refused.value)
