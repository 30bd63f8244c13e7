"""What may be refused of a fabric program without running it: sizes, memory, tasks and routes."""

import numpy as np

from emu.datasheet import Device
from emu.errors import LimitExceeded, OutOfMemory
from emu.wse.fabric.directions import (
    DIRECTIONS,
    LINKS,
    OPPOSITE,
    has,
    neighbour,
    several,
)
from emu.wse.fabric.encoding.code_size import code_bytes
from emu.wse.fabric.errors import FabricError, first_of
from emu.wse.fabric.program import Color, FabricProgram, Task

STAMPS = 510
"""Names of stamps that an instruction's bits tell apart (`cycles/fields.py`)."""


def check_size(program: FabricProgram, device: Device) -> None:
    """No more PEs, colors and queues than the wafer has, and links that the stepper can step."""
    if device.stream_cycles != 1:
        raise LimitExceeded(
            f"fabric program: {device.name}'s constants are those of {device.constants}, where a "
            f"stream takes {device.stream_cycles} cycles a wavelet; the stepper moves one a cycle: "
            "use the vendor simulator's constants"
        )
    for what, actual, allowed in (
        ("width", program.width, device.grid_width),
        ("height", program.height, device.grid_height),
        ("colors", len(program.colors), device.colors),
    ):
        if actual > allowed:
            raise LimitExceeded(
                f"fabric program: {what} is {actual}, {device.name} has {allowed}"
            )
    for name, color in program.colors.items():
        for side, queue, depths in (
            ("input", color.input_queue, device.input_queue_words),
            ("output", color.output_queue, device.output_queue_words),
        ):
            if isinstance(queue, int) and not 0 <= queue < len(depths):
                raise LimitExceeded(
                    f"color '{name}': {side} queue {queue}, {device.name} has 0 to "
                    f"{len(depths) - 1}"
                )


def check_memory(program: FabricProgram, device: Device) -> None:
    """Code and buffers fit the SRAM of every PE."""
    code = code_bytes(program, device)
    buffers = program.used_bytes()
    # PEs hold different code and buffers: it is the fullest that must fit.
    used = code + buffers
    limit = device.capacity_bytes["sram"]
    if limit is not None and used.max() > limit:
        fullest = int(used.argmax())
        raise OutOfMemory(
            f"PE {program.coordinates(fullest)}: {used.max()} bytes of code and buffers, its SRAM "
            f"has {limit}; {code.flat[fullest]} are code, so make its buffers "
            f"{used.max() - limit} bytes smaller, or use more PEs"
        )


def _check_circle(name: str, color: Color, position: int) -> None:
    """Where routers merge streams a wavelet could come round again, and would for ever.

    Routers that receive from one direction cannot: nothing enters a circle of them.
    """
    receive = color.receive[position]
    send = color.send[position]
    if not several(receive).any():
        return
    hears = []
    for side in LINKS:
        sent_here = has(neighbour(send, side), OPPOSITE[side])
        hears.append(has(receive, side) & sent_here)
    left = np.logical_or.reduce(hears)
    while True:  # a router that no router in question sends to is not on a circle
        # Of routers 0 -> 1 -> 2 -> 3 -> 2, router 1 is fed by none of those that hear a neighbour
        # and drops out; 2 and 3 feed each other and stay.
        fed = np.zeros(receive.shape, bool)
        for side in LINKS:
            fed |= hears[side] & neighbour(left, side, False)
        kept = left & fed
        none_dropped = (kept == left).all()
        if none_dropped:
            break
        left = kept
    if left.any():
        at = first_of(left)
        raise FabricError(
            f"color '{name}': its route turns in a circle, which feeds PE {at}"
        )


def check_route(name: str, color: Color) -> None:
    """Every wavelet sent to a neighbour must be received there, in some position of its switch."""
    for position in range(len(color.receive)):
        _check_circle(name, color, position)
    # Which positions two neighbours are in at once is a matter of time: what comes too early for a
    # router's position waits there, and may be meant to.
    listens = np.bitwise_or.reduce(color.receive, axis=0)
    everywhere = np.ones(listens.shape, bool)
    for side in LINKS:
        sends = has(color.send, side).any(axis=0)
        off_edge = sends & ~neighbour(everywhere, side, False)
        if off_edge.any():
            at = first_of(off_edge)
            raise FabricError(
                f"color '{name}': PE {at} sends {DIRECTIONS[side]}, off "
                "the edge of the program's rectangle"
            )
        heard = has(neighbour(listens, side), OPPOSITE[side])
        # A wavelet sent there would never be taken, and those behind it wait for ever.
        deaf = sends & ~heard
        if deaf.any():
            at = first_of(deaf)
            raise FabricError(
                f"color '{name}': PE {at} sends {DIRECTIONS[side]}, where the router "
                f"does not receive from {DIRECTIONS[OPPOSITE[side]]}"
            )
    for silent in (color.receive != 0) & (color.send == 0):  # in each position
        if silent.any():
            at = first_of(silent)
            raise FabricError(f"color '{name}': PE {at} receives and sends nowhere")


def check_tasks(program: FabricProgram) -> None:
    """A data task starts by its wavelets alone, and those of a color start one task of a PE."""
    hears: dict[str, list[tuple[str, Task]]] = {}
    for name, declared in program.tasks.items():
        for task in declared:
            if task.color is None:
                continue
            if task.color not in program.colors:
                known = ", ".join(program.colors) or "none"
                raise FabricError(
                    f"task '{name}' starts on wavelets of '{task.color}': no such color, has "
                    f"{known}",
                    task.where,
                )
            if task.start:
                raise FabricError(
                    f"task '{name}' starts with the program and on wavelets of "
                    f"'{task.color}'; a data task must not have start=True",
                    task.where,
                )
            for other_name, other in hears.setdefault(task.color, []):
                # One wavelet starts one task, and which of two it would be nothing says.
                both = task.place & other.place
                if both.any():
                    raise FabricError(
                        f"PE {first_of(both)}: wavelets of '{task.color}' start task "
                        f"'{other_name}' and task '{name}', must start one; give one of them "
                        "another color",
                        task.where,
                    )
            hears[task.color].append((name, task))


def check_stamps(stamps: int) -> None:
    """As many as the stepper numbers."""
    if stamps > STAMPS:
        raise LimitExceeded(
            f"fabric program: {stamps} stamps, at most {STAMPS}; read fewer of the times"
        )


__all__ = [
    "check_memory",
    "check_route",
    "check_size",
    "check_stamps",
    "check_tasks",
]
