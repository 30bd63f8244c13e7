"""Kernel files are imported as they stand, and leave nothing behind."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from emu.errors import EmulationError
from emu.trainium.nki import load
from emu.trainium.nki.record import record
from emu.trainium.nki.tree import Loop

HELPER = """
import neuronxcc.nki.language as nl

def copy_rows(out, x, i):
    tile = nl.load(x[nl.ds(128 * i, 128), :])
    nl.store(out[nl.ds(128 * i, 128), :], tile)
"""

KERNEL = """
import torch
from neuronxcc import nki
import neuronxcc.nki.language as nl
from ..helpers.rows import copy_rows

@nki.jit
def kernel(x, times=1):
    from ..helpers import rows
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    for i in range(x.shape[0] // 128):
        rows.copy_rows(out, x, i)
    return out
"""

X = jax.ShapeDtypeStruct((512, 64), np.float32)


def test_a_package_s_kernel_with_its_helpers(tmp_path: Path) -> None:
    for name in ("lib", "lib/kernels", "lib/helpers"):
        (tmp_path / name).mkdir()
        # Nothing asks for what it would import.
        (tmp_path / name / "__init__.py").write_text("import that_nobody_has\n")
    (tmp_path / "lib/helpers/rows.py").write_text(HELPER)
    (tmp_path / "lib/kernels/copy.py").write_text(KERNEL)
    before = set(sys.modules)
    module = load.load(tmp_path / "lib/kernels/copy.py")
    assert load.api(module) == "neuronxcc.nki"
    recorded = record(load.kernel(module, "kernel"), (X,), api="neuronxcc.nki")
    assert [isinstance(node, Loop) and node.count for node in recorded.body] == [4]
    assert [tensor.shape for tensor in recorded.outputs] == [(512, 64)]
    left = {name.partition(".")[0] for name in set(sys.modules) - before}
    assert not left & {"lib", "neuronxcc", "nki", "torch"}
    with pytest.raises(EmulationError, match="no kernel 'other'; it has kernel"):
        load.kernel(module, "other")


def test_a_kernel_as_text_keeps_its_lines() -> None:
    text = "@nki.jit\ndef step(x):\n  return nl.no_such_thing(x)\n"
    module = load.load_text(text, file="trace.py", line=100)
    with pytest.raises(EmulationError, match=r"no_such_thing.*trace.py:102"):
        record(module.step, (X,), api="neuronxcc.nki")


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("x = 1\ndef f(:\n")
    with pytest.raises(EmulationError, match=r"cannot be imported.*broken.py:2"):
        load.load(tmp_path / "broken.py")
    with pytest.raises(EmulationError, match="there is no file"):
        load.load(tmp_path / "missing.py")
