"""What the two cores of a launch do together: exchanges, barriers."""

from __future__ import annotations

from collections.abc import Sequence

from emu.trainium import core_barrier as barrier_instruction
from emu.trainium import sendrecv as exchange
from emu.trainium.nki.functions.checks import refuse
from emu.trainium.nki.functions.engines import Engine, offer, way
from emu.trainium.nki.functions.operands import handle, on_chip, shaped
from emu.trainium.nki.machine import num_programs, program_id
from emu.trainium.nki.record import current

AXIS = "nc"
CORES = 2


def sendrecv(
    src: object,
    dst: object,
    send_to_rank: int,
    recv_from_rank: int,
    *,
    name: str = "nki.isa.sendrecv",
) -> None:
    """`dst` is the other core's `src`."""
    mine = program_id(0)
    if num_programs() != CORES:
        refuse(name, f"{num_programs()} programs were launched, must be {CORES}")
    other = 1 - mine
    for argument, rank in (
        ("send_to_rank", send_to_rank),
        ("recv_from_rank", recv_from_rank),
    ):
        if int(rank) != other:
            refuse(name, f"{argument} is {int(rank)}, must be {other} on core {mine}")
    read = on_chip(src, name, "src")
    write = on_chip(dst, name, "dst", written=True)
    source = shaped(read, write.shape)
    if source is None or read.dtype != write.dtype:
        refuse(
            name,
            f"src is {read.dtype}{list(read.shape)}, must be {write.dtype}"
            f"{list(write.shape)} as dst",
        )
    choices = offer(None, name, way("dma", exchange, axis=AXIS))
    current().emit(name, choices, (write,), (source,))


def core_barrier(
    data: object,
    cores: int | Sequence[int],
    *,
    engine: object = None,
    name: str = "nki.isa.core_barrier",
) -> None:
    """Both cores wait for each other; each sees then what the other wrote to `data`."""
    ranks = (cores,) if isinstance(cores, int) else tuple(cores)
    if num_programs() == 1 and ranks in ((0,), (0, 0)):
        return
    if num_programs() != CORES or ranks != tuple(range(CORES)):
        refuse(
            name,
            f"cores are {list(ranks)} of {num_programs()} programs, must be [0, 1] of 2",
        )
    held = handle(data, name, "data")
    asked = engine.name if isinstance(engine, Engine) else engine
    waits = asked if asked in ("tensor", "vector", "scalar") else "gpsimd"
    choice = way(str(waits), barrier_instruction, axis=AXIS, engine=str(waits))
    # Of HBM the whole buffer: whose part is whose is known once all cores are recorded.
    from emu.trainium.nki.handles import whole_tensor

    whole = whole_tensor(held.tensor)
    if held.tensor.block:
        whole = whole[tuple(part if type(part) is int else 0 for part in held.member)]
    current().emit(name, (choice,), (whole.access(),), ())
