"""What may be refused of a fabric program without running it: sizes, memory, tasks and routes."""

from typing import Any

import numpy as np

from emu.datasheet import Device
from emu.errors import LimitExceeded, OutOfMemory
from emu.wse.fabric.directions import DIRECTIONS, OPPOSITE, RAMP
from emu.wse.fabric.errors import FabricError
from emu.wse.fabric.program import Color, FabricProgram


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
    for name, c in program.colors.items():
        for queue, depths in (
            (c.input_queue, device.input_queue_words),
            (c.output_queue, device.output_queue_words),
        ):
            if not 0 <= queue < len(depths):
                raise LimitExceeded(
                    f"color '{name}': queue {queue}, {device.name} has 0 to {len(depths) - 1}"
                )


def check_memory(program: FabricProgram, device: Device) -> None:
    code = device.code_bytes if program.code_bytes is None else program.code_bytes
    used = program.used_bytes() + int(code)
    limit = device.capacity_bytes["sram"]
    if limit is not None and used.max() > limit:
        y, x = np.unravel_index(used.argmax(), used.shape)
        raise OutOfMemory(
            f"PE (x={x}, y={y}): {used.max()} bytes of code and buffers, its SRAM has {limit}"
        )


def neighbour(x: np.ndarray, side: int, fill: Any = 0) -> np.ndarray:
    """`[..., height, width]`: each PE's neighbour's entry on a side; `fill` beyond the edge."""
    out = np.full_like(x, fill)
    here: list[Any] = [slice(None), slice(None)]
    there: list[Any] = [slice(None), slice(None)]
    axis, ahead = (1, side == 1) if side in (1, 3) else (0, side == 2)
    here[axis], there[axis] = (slice(None, -1), slice(1, None))[:: 1 if ahead else -1]
    out[(..., *here)] = x[(..., *there)]
    return out


def _check_circle(name: str, color: Color, at: int) -> None:
    """Where routers merge streams a wavelet could come round again, and would for ever.

    Routers that receive from one direction cannot: nothing enters a circle of them.
    """
    receive, send = color.receive[at], color.send[at]
    if not (receive & (receive - 1)).any():
        return
    hears = [
        (receive >> side & 1 & neighbour(send, side) >> OPPOSITE[side]).astype(bool)
        for side in range(RAMP)
    ]
    left = np.logical_or.reduce(hears)
    while True:  # a router that no router in question sends to is not on a circle
        fed = sum(a & neighbour(left, side, False) for side, a in enumerate(hears))
        kept = left & (np.asarray(fed) > 0)
        if (kept == left).all():
            break
        left = kept
    if left.any():
        y, x = np.argwhere(left)[0]
        raise FabricError(
            f"color '{name}': its route turns in a circle, which feeds PE (x={x}, y={y})"
        )


def check_route(name: str, color: Color) -> None:
    """Every wavelet sent to a neighbour must be received there, in some position of its switch."""
    for at in range(len(color.receive)):
        _check_circle(name, color, at)
    listens = np.bitwise_or.reduce(color.receive, axis=0)
    for side in range(RAMP):
        sends = (color.send >> side & 1).any(axis=0)
        off = sends & ~neighbour(np.ones_like(sends), side, False)
        if off.any():
            y, x = np.argwhere(off)[0]
            raise FabricError(
                f"color '{name}': PE (x={x}, y={y}) sends {DIRECTIONS[side]}, off "
                "the edge of the program's rectangle"
            )
        heard = neighbour(listens, side) >> OPPOSITE[side] & 1
        deaf = sends & (heard == 0)
        if deaf.any():
            y, x = np.argwhere(deaf)[0]
            raise FabricError(
                f"color '{name}': PE (x={x}, y={y}) sends {DIRECTIONS[side]}, where the router "
                f"does not receive from {DIRECTIONS[OPPOSITE[side]]}"
            )
    silent = (color.receive != 0) & (color.send == 0)
    if silent.any():
        _, y, x = np.argwhere(silent)[0]
        raise FabricError(
            f"color '{name}': PE (x={x}, y={y}) receives and sends nowhere"
        )


def check_tasks(program: FabricProgram) -> None:
    """A data task starts by its wavelets alone."""
    for name, declared in program.tasks.items():
        for task in declared:
            if task.color is not None and task.start:
                raise FabricError(
                    f"task '{name}' starts with the program and on wavelets of "
                    f"'{task.color}'; a data task must not have start=True",
                    task.where,
                )


__all__ = [
    "check_memory",
    "check_route",
    "check_size",
    "check_tasks",
    "neighbour",
]
