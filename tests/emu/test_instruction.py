"""An instruction looks like the function that declares it."""

import inspect
import pydoc
import re
import shutil
import subprocess

import jax
import pytest

from emu import Instruction
from emu.errors import LimitExceeded, WrongShape
from emu.trainium import isa
from emu.trainium.engines.memory import psum, sbuf
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


def test_shapes_that_do_not_go_together_are_named_with_the_kernels_line():
    def contraction():
        return nc_matmul(psum(128, 512), sbuf(64, 128), sbuf(128, 512), 0)

    def sum_of_two():
        return tensor_tensor(sbuf(128, 512), sbuf(128, 512), sbuf(128, 511), op="add")

    with pytest.raises(WrongShape) as caught:
        jax.eval_shape(contraction)
    assert str(caught.value).startswith(
        "trn.nc_matmul: cannot take float32[64, 128], float32[128, 512], int32[] into "
        "float32[128, 512]: contraction of stationary [64, 128] and moving [128, 512] differ"
    )
    assert "(test_instruction.py:" in str(caught.value)
    with pytest.raises(
        WrongShape, match="float32.128, 512., float32.128, 511., must be"
    ):
        jax.eval_shape(sum_of_two)


REVEALED = """
from emu.trainium import isa

reveal_type(isa.nc_matmul.__call__)
reveal_type(isa.tensor_scalar_reduce.__call__)
"""


@pytest.mark.skipif(not shutil.which("pyright"), reason="pyright is not installed")
def test_a_type_checker_sees_the_parameters_and_the_result(tmp_path):
    file = tmp_path / "revealed.py"
    file.write_text(REVEALED)
    done = subprocess.run(["pyright", str(file)], capture_output=True, text=True)
    matmul, reduce = re.findall(r'Type of ".*?" is "(.*)"', done.stdout)
    assert re.match(r"\(dst: Array, stationary: Array, moving: Array, ", matmul)
    assert matmul.endswith("onezero: bool = False) -> Array")
    assert reduce.endswith("op: str, reduce: str) -> tuple[Array, Array]")


def test_operands_go_by_position():
    with pytest.raises(
        LimitExceeded, match="0 operands, must be 1 destination and 3 sources"
    ):
        nc_matmul(dst=0, stationary=0, moving=0, accumulate=0)  # type: ignore[arg-type]
