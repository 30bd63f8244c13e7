"""The wafer's calibration cases that run as fabric programs: reduces, one PE, sends, MeshGEMM."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from emu.datasheet import Device
from emu.wse import trees
from emu.wse.fabric import stepper
from emu.wse.fabric.cycles import run as cycle_run
from emu.wse.fabric.cycles import verdict
from emu.wse.fabric.cycles.shape import shape_of
from emu.wse.fabric.encoding.encode import encode
from emu.wse.fabric.program import FabricProgram
from experiments.calibration.trainium import Metrics, Unsupported
from kernels.wse.programs import mesh_gemm as mesh
from kernels.wse.programs import microbench
from kernels.wse.programs.line_reduce import END, line_reduce

# Tables of one size, so that programs on the same PEs share a compilation.
INSTRUCTIONS = 1 << 14
REPEATS = 5  # of MeshGEMM, after one to warm up
# Repeats and warm-ups that the ends of a band are read from: 2 % off at most.
ONE = (
    1,
    0,
)


# --- reading a program ---


def _stamps(device: Device, program: FabricProgram) -> dict[str, np.ndarray]:
    """The cycles in which the PEs read the time, by stamp."""
    encoded = encode(program, device)
    if encoded.straight:
        return stepper.run(program, device).stamps
    # A compilation is of one shape: short programs are lengthened to a common size, since compiling
    # takes longer than they run.
    shape = shape_of(encoded)
    wide = dataclasses.replace(
        shape, instructions=max(shape.instructions, INSTRUCTIONS)
    )
    run = cycle_run.run(encoded, shape=wide)
    verdict.check(encoded, run)
    return {
        name: run.state.stamps[k].reshape(program.shape)
        for k, name in enumerate(encoded.stamps)
    }


def _between(device: Device, program: FabricProgram) -> int:
    """Cycles between one PE's two stamps, without reading the first."""
    stamps = _stamps(device, program)
    start = stamps[microbench.START]
    end = stamps[microbench.END]
    # The instruction that takes the first stamp is no part of what was timed.
    return int((end - start).item() - device.timestamp_cycles)


# --- reduces ---


def chain_reduce(device: Device, *, pes: int, words: int) -> Metrics:
    """Until the western-most PE, which has the sum, reads the time again."""
    return _reduce(device, pes, pes, words)


def two_phase_reduce(device: Device, *, pes: int, words: int, group: int) -> Metrics:
    """The same where chains of `group` PEs are summed first, and then over their leaders."""
    return _reduce(device, pes, group, words)


def _reduce(device: Device, pes: int, group: int, words: int) -> Metrics:
    if pes < 2:
        raise Unsupported(f"a reduce of {pes} PE adds nothing, must be of 2 or more")
    stamps = _stamps(device, line_reduce(trees.two_phase(pes, group), words))
    return {"cycles": int(stamps[END][0, 0])}


# --- one PE, and two ---


def matvec_1pe(
    device: Device, *, n: int, padded_rows: int, dtype: str, iters: int = 10
) -> Metrics:
    """One of `iters` mat-vecs; the software loop around them is part of it."""
    program = microbench.matvec(device, n, padded_rows, dtype, iters)
    return {"cycles": _between(device, program) / iters}


def vector_op(
    device: Device, *, op: str, dtype: str, elements: int, bank_conflict: Any = False
) -> Metrics:
    """From a vector operation's dispatch to that of an instruction that needs its result.

    Integers on the WSE-3 were timed to their completion.
    """
    conflict = _switch("vector_op", "bank_conflict", bank_conflict)
    if not dtype.startswith(("float", "bfloat")) and device.dependent_cycles:
        return vector_op_completion(device, op=op, dtype=dtype, elements=elements)
    program = microbench.vector_op(device, op, dtype, elements, bank_conflict=conflict)
    return {"cycles": _between(device, program)}


def vector_op_issue(device: Device, *, op: str, dtype: str, elements: int) -> Metrics:
    """From a vector operation's dispatch to that of the next, which does not depend on it."""
    first, second = _logged(device, op, dtype, elements).order.cycle[:2]
    return {"cycles": int(second - first)}


def vector_op_completion(
    device: Device, *, op: str, dtype: str, elements: int
) -> Metrics:
    """From a vector operation's dispatch until its last element is written."""
    run = _logged(device, op, dtype, elements)
    first, second = run.order.cycle[:2]
    # Cycles in which PE 0 issued an element. The last of them before the second operation's
    # dispatch is the first operation's, and is written at its end: hence 1 more.
    issued = np.flatnonzero(run.issues[:, 0] >= 0)
    return {"cycles": int(issued[issued < second].max() + 1 - first)}


def _logged(device: Device, op: str, dtype: str, elements: int) -> cycle_run.Cycles:
    program = microbench.vector_ops(op, dtype, elements)
    return cycle_run.run(encode(program, device), watch=np.array([0]))


def send(device: Device, *, words: int, hops: int) -> Metrics:
    """From a send's dispatch, in cycle 0, to the first instruction of the task it starts."""
    return {
        "cycles": int(_stamps(device, microbench.one_way(words, hops))[END][0, hops])
    }


# --- MeshGEMM ---


def mesh_gemm(
    device: Device,
    *,
    p: int,
    mt: int,
    kt: int,
    nt: int,
    compute_repeats: Any,
    communicate: Any,
    dtype: str,
) -> Metrics:
    """One repeat, the mean over all PEs of five."""
    if dtype != "float16":
        raise Unsupported(
            f"mesh_gemm: dtype is {dtype!r}, must be float16, as published"
        )
    if type(compute_repeats) is not int or compute_repeats < 0:
        raise Unsupported(
            f"mesh_gemm: compute_repeats is {compute_repeats!r}, must be a whole number, 0 or more"
        )
    # The ends of the band only draw a bar; they need not be as exact as what is compared.
    repeats, warm_up = (REPEATS, 1) if device.band == "nominal" else ONE
    sizes = mesh.Sizes(
        p,
        mt,
        kt,
        nt,
        compute_repeats,
        _switch("mesh_gemm", "communicate", communicate),
        repeats,
        warm_up,
    )
    stamps = _stamps(device, mesh.mesh_gemm(device, sizes))
    return {"cycles": float((stamps[mesh.END] - stamps[mesh.START]).mean()) / repeats}


def _switch(case: str, name: str, value: Any) -> bool:
    if type(value) is not bool:
        raise Unsupported(f"{case}: {name} is {value!r}, must be true or false")
    return value


CASES: Mapping[str, Callable[..., Metrics]] = {
    f.__name__: f
    for f in (
        chain_reduce,
        two_phase_reduce,
        matvec_1pe,
        vector_op,
        vector_op_issue,
        vector_op_completion,
        send,
        mesh_gemm,
    )
}
