"""An encoded program as the cycle stepper's arrays: static shape of the machine, and tables.

PEs are flattened, `n = y * width + x`. A *channel* is one FIFO of a router: a color that receives
from a single direction at every PE has one, any other has one per direction it receives from.
"""

import dataclasses
from typing import Any

import numpy as np

from emu.errors import LimitExceeded
from emu.wse.fabric.directions import RAMP
from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.encoding.instructions import ACTIVATE, BLOCK, NONE, UNBLOCK
from emu.wse.fabric.program import Color

Pairs = tuple[tuple[int, int], ...]
MAX_CYCLES = 1 << 20  # of one instruction's setup


@dataclasses.dataclass(frozen=True)
class Shape:
    """What the compiled step depends on; programs of equal shape share one compilation.

    Attributes:
      height, width: PEs.
      channels: (color, receive direction) of each channel; direction NONE if it is any.
      sides: directions in which some color sends, per color.
      positions: switch positions of each color.
      control: whether any control wavelets are sent.
      link_pairs, ramp_pairs: colors that may want one link, or the ramp out of one PE.
      threads: microthreads in use, the main one included.
      data_tasks: (task, color) of each data task.
      tasked: whether tasks are activated, blocked or unblocked as the program runs.
      stamps, tasks, instructions: how many; of the last, the next power of two.
      kinds: kinds of instruction in use.
      hop_cycles, ramp_cycles, task_switch_cycles, async_cycles: of the device.
    """

    height: int
    width: int
    channels: tuple[tuple[int, int], ...]
    sides: tuple[tuple[int, ...], ...]
    positions: tuple[int, ...]
    control: bool
    link_pairs: Pairs
    ramp_pairs: Pairs
    threads: int
    data_tasks: tuple[tuple[int, int], ...]
    tasked: bool
    stamps: int
    tasks: int
    instructions: int
    kinds: tuple[int, ...]
    hop_cycles: int
    ramp_cycles: int
    task_switch_cycles: int
    async_cycles: int

    @property
    def colors(self) -> int:
        return len(self.sides)

    @property
    def pes(self) -> int:
        return self.height * self.width


def shape_of(e: Encoded) -> Shape:
    """The static shape of an encoded program."""
    colors = list(e.program.colors.values())
    channels = [(c.index, d) for c in colors for d in _directions(c)]
    threads = 1 + max((i.thread for i in e.instructions), default=0)
    data = {
        (task, e.program.colors[t.color].index)
        for task, declared in enumerate(e.program.tasks.values())
        for t in declared
        if t.color is not None
    }
    d = e.device
    return Shape(
        *e.program.shape,
        tuple(channels),
        tuple(_sides(c) for c in colors),
        tuple(len(c.receive) for c in colors),
        any(i.control for i in e.instructions),
        _link_pairs(colors),
        _ramp_pairs(e, colors),
        threads,
        tuple(sorted(data)),
        _tasked(e),
        len(e.stamps),
        len(e.entry),
        _power_of_two(len(e.instructions)),
        tuple(sorted({i.kind for i in e.instructions})),
        int(d.hop_cycles),
        int(d.ramp_cycles),
        int(d.task_switch_cycles),
        int(d.async_cycles),
    )


def _power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


def _tasked(e: Encoded) -> bool:
    several = (e.started & (e.started - 1)).any() or e.blocked.any()
    flagged = any(
        i.kind in (ACTIVATE, BLOCK, UNBLOCK) or (i.activate, i.unblock) != (NONE, NONE)
        for i in e.instructions
    )
    return bool(several or flagged)


def _directions(c: Color) -> list[int]:
    """Receive directions that need a channel each; `[NONE]` if one serves."""
    single = len(c.receive) == 1 and not (c.receive & (c.receive - 1)).any()
    if single:
        return [NONE]
    return [d for d in range(RAMP + 1) if (c.receive >> d & 1).any()]


def _sides(c: Color) -> tuple[int, ...]:
    return tuple(d for d in range(RAMP + 1) if (c.send >> d & 1).any())


def _link_pairs(colors: list[Color]) -> Pairs:
    sends = [np.bitwise_or.reduce(c.send, axis=0) for c in colors]
    return tuple(
        (i, j)
        for i in range(len(sends))
        for j in range(i + 1, len(sends))
        if (sends[i] & sends[j]).any()
    )


def _ramp_pairs(e: Encoded, colors: list[Color]) -> Pairs:
    takes = [
        (np.bitwise_or.reduce(c.receive, axis=0) >> RAMP & 1).astype(bool)
        for c in colors
    ]
    return tuple(
        (i, j)
        for i in range(len(takes))
        for j in range(i + 1, len(takes))
        if (takes[i] & takes[j]).any()
    )


# --- tables ---


def tables(e: Encoded, shape: Shape) -> dict[str, np.ndarray]:
    """Arrays over the PEs and over the instructions, as the compiled step takes them."""
    colors = list(e.program.colors.values())
    n = shape.pes
    positions = max(shape.positions, default=1)

    def per_position(x: list[np.ndarray]) -> np.ndarray:
        return np.stack(
            [
                np.pad(a, ((0, positions - len(a)), (0, 0), (0, 0)), mode="edge")
                for a in x
            ],
            1,
        ).reshape(positions, len(x), n)

    flat = lambda x: np.stack(x).reshape(len(x), n)  # noqa: E731
    entry = e.entry.reshape(len(e.entry), n)
    entry = np.pad(entry, ((0, shape.tasks - len(entry)), (0, 0)), constant_values=NONE)
    out = {
        "on": np.bool_(True),
        "entry": entry,
        **_instruction_tables(e, shape.instructions),
    }
    if colors:
        d = e.device
        depth, latency = _channel_depths(e, shape, colors)
        out |= {
            "receive": per_position([c.receive for c in colors]),
            "send": per_position([c.send for c in colors]),
            "last": flat([c.last for c in colors]),
            "heeds": flat([c.heeds for c in colors]),
            "cap": (depth + latency).astype(np.int8),
            "enter": (1 << (latency - 1)).astype(np.int8),
            "out_cap": _queue_caps(colors, d.output_queue_words, "output_queue", 1),
            "in_cap": _queue_caps(
                colors, d.input_queue_words, "input_queue", shape.ramp_cycles
            ),
        }
    return out


def _queue_caps(
    colors: list[Color], depths: Any, which: str, latency: int
) -> np.ndarray:
    return np.array([[depths[getattr(c, which)] + latency] for c in colors], np.int8)


def _channel_depths(
    e: Encoded, shape: Shape, colors: list[Color]
) -> tuple[np.ndarray, Any]:
    """Depth and latency of each channel, `[channels, PEs]`."""
    latency = np.empty((len(shape.channels), shape.pes), np.int64)
    for x, (c, direction) in enumerate(shape.channels):
        if direction == NONE:
            ramp = (colors[c].receive[0] >> RAMP & 1).reshape(-1)
            latency[x] = np.where(ramp, shape.ramp_cycles, shape.hop_cycles)
        else:
            latency[x] = shape.ramp_cycles if direction == RAMP else shape.hop_cycles
    return np.full_like(latency, int(e.device.router_queue_words)), latency


def _instruction_tables(e: Encoded, count: int) -> dict[str, np.ndarray]:
    """Instructions packed into four words each; `decode` in `cycle.py` takes them apart."""
    rows = np.zeros((count, 4), np.int64)
    for at, i in enumerate(e.instructions):
        t = i.time
        if max(t.setup_cycles, t.drain_cycles) >= MAX_CYCLES:
            raise LimitExceeded(
                f"an instruction takes {t.setup_cycles} cycles before its first "
                f"issue, at most {MAX_CYCLES - 1}",
                i.where,
            )
        rows[at] = (
            t.setup_cycles | i.kind << 20 | i.thread << 24 | i.last << 28,
            t.issues,
            t.drain_cycles
            | t.words << 20
            | (i.inward + 1) << 23
            | (t.interval_cycles - 1) << 28,
            (i.activate + 1)
            | (i.unblock + 1) << 6
            | (i.target + 1) << 12
            | (i.outward + 1) << 18
            | i.control << 23
            | _switch_position(i) << 25
            | t.conflict << 27,
        )
    return {f"word{k}": rows[:, k].astype(np.int32) for k in range(4)}


def _switch_position(i: Any) -> int:
    return getattr(i.op, "position", 0)


__all__ = ["Shape", "shape_of", "tables"]
