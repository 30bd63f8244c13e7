"""Random small fabric programs, right and wrong ones, for hypothesis."""

import dataclasses
import itertools
from typing import Any

import numpy as np
from hypothesis import strategies as st

from emu.wse.fabric import ops
from emu.wse.fabric.cycles.shape import Shape, shape_of
from emu.wse.fabric.directions import DIRECTIONS
from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.encoding.instructions import (
    ACTIVATE,
    BLOCK,
    CODE,
    STAMP,
    SWITCH,
    UNBLOCK,
    VECTOR,
)
from emu.wse.fabric.program import FREE, FabricProgram

HEIGHT, WIDTH = 3, 4
COLORS = ("red", "green", "blue")
MANY_COLORS = tuple(f"c{number}" for number in range(18))
MAIN = ("main", "then", "last")
HEARERS = (
    "hears",
    "listens",
    "wakes",
)  # of data tasks, whatever color a PE's one hears
TASKS = MAIN + HEARERS
QUEUES = (
    6  # numbers that a WSE-2 and a WSE-3 have for what goes in and for what goes out
)
STEPS = ((-1, 0), (0, 1), (1, 0), (0, -1))
THREADS = 3
WORDS = 16  # of the buffer

Place = tuple[int, int]


@dataclasses.dataclass
class Stream:
    """A sender, the routers on its way, those that deliver, and how many words it sends."""

    color: str
    path: list[Place]
    taps: set[int]
    words: int

    def sides(self, at: Place) -> tuple[str, list[str]]:
        """What the router at `at` receives from and sends to."""
        i = self.path.index(at)
        receive = "ramp" if i == 0 else direction(at, self.path[i - 1])
        send = ["ramp"] if i in self.taps else []
        if i + 1 < len(self.path):
            send.append(direction(at, self.path[i + 1]))
        return receive, send


def direction(a: Place, b: Place) -> str:
    return DIRECTIONS[STEPS.index((b[0] - a[0], b[1] - a[1]))]


@st.composite
def streams(draw: Any, color: str) -> Stream:
    """A walk over the grid that never meets itself; its end delivers, others may.

    Some go round most of the grid.
    """
    at = draw(st.integers(0, HEIGHT - 1)), draw(st.integers(0, WIDTH - 1))
    path = [at]
    longest = draw(st.sampled_from((5, 5, 5, HEIGHT * WIDTH - 1)))
    for _ in range(draw(st.integers(1, longest))):
        free = [
            p
            for dy, dx in STEPS
            if 0 <= (p := (path[-1][0] + dy, path[-1][1] + dx))[0] < HEIGHT
            and 0 <= p[1] < WIDTH
            and p not in path
        ]
        if not free:
            break
        path.append(draw(st.sampled_from(free)))
    taps = {i for i in range(1, len(path) - 1) if draw(st.integers(0, 3)) == 0}
    return Stream(color, path, taps | {len(path) - 1}, draw(st.integers(1, 12)))


def route(p: FabricProgram, first: Stream, second: Stream | None, how: str) -> None:
    """The routers of one color's streams.

    Where the two meet, a `"switch"` lets the second pass once a control wavelet has, a `"merge"`
    receives from both at any time.
    """
    for at in first.path:
        receive, send = first.sides(at)
        then: tuple[Any, ...] = ()
        from_sides = [receive]
        if second is not None and at in second.path:
            other = second.sides(at)
            if how == "switch":
                then = (other,)
            else:
                from_sides, send = (
                    sorted({receive, other[0]}),
                    sorted({*send, *other[1]}),
                )
        p.route(first.color, at, receive=from_sides, send=send, then=then)
    if second is None:
        return
    for at in second.path:
        if at not in first.path:
            receive, send = second.sides(at)
            p.route(second.color, at, receive=receive, send=send)


@st.composite
def programs(
    draw: Any, straight: bool = False, colors: tuple[str, ...] = COLORS
) -> FabricProgram:
    """A program; with `straight` one of synchronous operations on static routes.

    Colors have queues of any depth, by number or FREE. Data tasks share names over PEs that hear
    different colors under them. Most end well. Some deadlock, leave wavelets unread or cannot be
    encoded: a test must take that as it comes.
    """
    p = FabricProgram(WIDTH, HEIGHT)
    x = p.buffer("x", WORDS)
    p.buffer("y", WORDS)
    for name in TASKS:
        p.tasks[name] = []  # so that a task's number is the same in all programs
    numbers = draw(st.permutations(range(QUEUES)))
    for number, c in enumerate(colors):
        by_number = len(colors) <= QUEUES and draw(st.booleans())
        queue = numbers[number] if by_number else FREE
        p.color(c, queue, draw(st.sampled_from((queue, FREE))))
    work: dict[Place, list[ops.Op]] = {}
    used = colors[: draw(st.integers(1, len(colors)))]
    # Of many colors that merge, one would nearly always turn in a circle and be refused.
    alone = 4 if len(colors) == len(COLORS) else 8 * len(colors)
    for color in used:
        how = (
            "alone"
            if straight
            else draw(st.sampled_from(("alone",) * alone + ("switch", "merge")))
        )
        first = draw(streams(color))
        second = None if how == "alone" else draw(streams(color))
        route(p, first, second, how)
        for s in (first, second):
            if s is not None:
                _use(draw, p, work, s, how if s is first else "alone", straight)
    names = MAIN[: 1 if straight else draw(st.integers(1, 3))]
    for at, todo in work.items():
        todo = draw(st.permutations(todo)) if draw(st.integers(0, 9)) == 0 else todo
        _tasks(draw, p, at, list(todo), names, x, straight)
    return p


def _use(
    draw: Any,
    p: FabricProgram,
    work: dict[Place, list[ops.Op]],
    s: Stream,
    how: str,
    straight: bool,
) -> None:
    """The operations that send the stream and take it, cut in one or two."""
    x, y = p.buffers["x"], p.buffers["y"]
    cut = draw(st.integers(0, s.words - 1))
    parts = [x[: s.words]] if cut == 0 else [x[:cut], x[cut : s.words]]
    sent: list[ops.Op] = [ops.copy(ops.send(s.color), part) for part in parts]
    if how == "switch":
        sent.append(ops.Control(s.color, draw(st.sampled_from((ops.OWN, ops.ALL)))))
    work.setdefault(s.path[0], []).extend(sent)
    wrong = draw(st.integers(0, 29)) == 0
    for i in s.taps:
        n = max(1, s.words - 1) if wrong else s.words
        here = p.place(s.path[i])
        if not straight and draw(st.integers(0, 5)) == 0:
            heard = draw(st.sampled_from(HEARERS))
            if not any((t.place & here).any() for t in p.tasks[heard]):
                p.task(
                    heard,
                    [ops.Code(draw(st.integers(1, 9)))],
                    s.path[i],
                    on_wavelet=s.color,
                    argument=y[0],
                )
            continue
        into: list[ops.Op] = [
            ops.add(y[:n], ops.receive(s.color), x[:n])
            if draw(st.booleans())
            else ops.copy(y[:n], ops.receive(s.color))
        ]
        work.setdefault(s.path[i], []).extend(into)


def _tasks(
    draw: Any,
    p: FabricProgram,
    at: Place,
    todo: list[ops.Op],
    names: tuple[str, ...],
    x: ops.Buffer,
    straight: bool,
) -> None:
    """Deals a PE's operations to its tasks, with scalar code, stamps and microthreads between."""
    parts: list[list[ops.Op]] = [[] for _ in names]
    for op in todo:
        which = draw(st.integers(0, len(names) - 1))
        part = parts[which]
        if draw(st.booleans()):
            part.append(ops.Code(draw(st.integers(1, 30))))
        if draw(st.integers(0, 3)) == 0:
            part.append(ops.Stamp("here"))
        if draw(st.integers(0, 3)) == 0:
            part.append(ops.fmac(x[:8], x[:8], 2.0))
        if not straight and isinstance(op, ops.Vector) and draw(st.booleans()):
            later = (None, *names[which + 1 :])  # an earlier one might run for ever
            op = dataclasses.replace(
                op,
                thread=draw(st.integers(1, THREADS - 1)),
                activate=draw(st.sampled_from(later)),
            )
        part.append(op)
        if not straight and draw(st.integers(0, 9)) == 0:
            part.append(draw(st.sampled_from((ops.Block, ops.Unblock)))(names[-1]))
    for name, part in zip(names, parts, strict=True):
        start = straight or draw(st.integers(0, 9)) > 0
        p.task(name, part or [ops.Code(1)], at, start=start)


def wide_shape(e: Encoded) -> Shape:
    """A shape that allows for whatever these programs do, so that all share one compilation."""
    sides = tuple(range(5))
    colors = range(len(e.program.colors))
    pairs = tuple(itertools.combinations(colors, 2))
    thread_pairs = tuple(itertools.combinations(range(THREADS), 2))
    return dataclasses.replace(
        shape_of(e),
        channels=tuple((c, d) for c in colors for d in sides),
        sides=(sides,) * len(colors),
        positions=(2,) * len(colors),
        control=True,
        link_pairs=pairs,
        ramp_pairs=pairs,
        threads=THREADS,
        taking_pairs=thread_pairs,
        sending_pairs=thread_pairs,
        tasked=True,
        stamps=1,
        data_tasks=tuple(
            (len(MAIN) + task, color)
            for task in range(len(HEARERS))
            for color in colors
        ),
        tasks=len(TASKS),
        instructions=256,
        kinds=(VECTOR, CODE, STAMP, ACTIVATE, BLOCK, UNBLOCK, SWITCH),
        sent_words=2,
        paced=True,
    )


def data(seed: int) -> dict[str, np.ndarray]:
    """Random content of the programs' buffers."""
    made = np.random.default_rng(seed).standard_normal((2, HEIGHT, WIDTH, WORDS))
    return {"x": made[0].astype(np.float32), "y": made[1].astype(np.float32)}
