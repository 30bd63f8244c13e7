"""Random small fabric programs, right and wrong ones, for hypothesis."""

import dataclasses
from typing import Any

import numpy as np
from hypothesis import strategies as st

from emu.wse import ops
from emu.wse.encode import ACTIVATE, BLOCK, CODE, STAMP, SWITCH, UNBLOCK, VECTOR, Encoded
from emu.wse.layout import Shape, shape_of
from emu.wse.program import DIRECTIONS, FabricProgram

HEIGHT, WIDTH = 3, 4
COLORS = ("red", "green", "blue")
TASKS = ("main", "then", "last")
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
    switched: bool


@st.composite
def streams(draw: Any, color: str) -> Stream:
    """A walk over the grid that never meets itself; its end delivers, others may."""
    at = draw(st.integers(0, HEIGHT - 1)), draw(st.integers(0, WIDTH - 1))
    path = [at]
    for _ in range(draw(st.integers(1, 5))):
        free = [
            p for dy, dx in STEPS
            if 0 <= (p := (path[-1][0] + dy, path[-1][1] + dx))[0] < HEIGHT
            and 0 <= p[1] < WIDTH and p not in path
        ]  # fmt: skip
        if not free:
            break
        path.append(draw(st.sampled_from(free)))
    taps = {i for i in range(1, len(path) - 1) if draw(st.booleans()) and draw(st.booleans())}
    return Stream(color, path, taps | {len(path) - 1}, draw(st.integers(1, 12)),
                  draw(st.integers(0, 3)) == 0)  # fmt: skip


def direction(a: Place, b: Place) -> str:
    return DIRECTIONS[STEPS.index((b[0] - a[0], b[1] - a[1]))]


def route(p: FabricProgram, s: Stream, second: Stream | None) -> None:
    """The stream's routers; a switched color lets its second stream pass once the first is done."""
    for i, at in enumerate(s.path):
        receive = "ramp" if i == 0 else direction(at, s.path[i - 1])
        send = ["ramp"] if i in s.taps else []
        if i + 1 < len(s.path):
            send.append(direction(at, s.path[i + 1]))
        then = ()
        if second is not None and at in second.path:
            j = second.path.index(at)
            receive2 = "ramp" if j == 0 else direction(at, second.path[j - 1])
            send2 = ["ramp"] if j in second.taps else []
            if j + 1 < len(second.path):
                send2.append(direction(at, second.path[j + 1]))
            then = ((receive2, send2),)
        p.route(s.color, at, receive=receive, send=send, then=then)
    if second is not None:
        for at in second.path:
            if at not in s.path:
                alone = dataclasses.replace(second, path=second.path)
                _lone(p, alone, at)


def _lone(p: FabricProgram, s: Stream, at: Place) -> None:
    i = s.path.index(at)
    send = ["ramp"] if i in s.taps else []
    if i + 1 < len(s.path):
        send.append(direction(at, s.path[i + 1]))
    receive = "ramp" if i == 0 else direction(at, s.path[i - 1])
    p.route(s.color, at, receive=receive, send=send)


@st.composite
def programs(draw: Any, straight: bool = False) -> FabricProgram:
    """A program; with `straight` one of synchronous operations on static routes.

    Most end well. Some deadlock, leave wavelets unread or cannot be encoded: a test must take that
    as it comes.
    """
    p = FabricProgram(WIDTH, HEIGHT)
    x = p.buffer("x", WORDS)
    y = p.buffer("y", WORDS)
    for c in COLORS:
        p.color(c)
    work: dict[Place, list[ops.Op]] = {}
    for color in COLORS[: draw(st.integers(1, 3))]:
        first = draw(streams(color))
        second = None
        if first.switched and not straight:
            second = draw(streams(color))
        route(p, first, second)
        for s in (first, second):
            if s is not None:
                _use(draw, work, s, x, y, second is not None and s is first)
    names = TASKS[: 1 if straight else draw(st.integers(1, 3))]
    for at, todo in work.items():
        todo = draw(st.permutations(todo)) if draw(st.integers(0, 4)) == 0 else todo
        _tasks(draw, p, at, list(todo), names, x, straight)
    return p


def _use(
    draw: Any, work: dict[Place, list[ops.Op]], s: Stream, x: ops.Buffer, y: ops.Buffer, ends: bool
) -> None:
    """The operations that send the stream and take it, cut in one or two."""
    sent = [ops.copy(ops.send(s.color), x[: s.words])]
    if s.words > 2 and draw(st.booleans()):
        cut = draw(st.integers(1, s.words - 1))
        sent = [ops.copy(ops.send(s.color), x[:cut]), ops.copy(ops.send(s.color), x[cut : s.words])]
    if ends:
        sent.append(ops.Control(s.color, draw(st.sampled_from((ops.OWN, ops.ALL)))))
    work.setdefault(s.path[0], []).extend(sent)
    wrong = draw(st.integers(0, 19)) == 0
    for i in s.taps:
        n = max(1, s.words - 1) if wrong else s.words
        work.setdefault(s.path[i], []).append(
            ops.add(y[:n], ops.receive(s.color), x[:n]) if draw(st.booleans())
            else ops.copy(y[:n], ops.receive(s.color))
        )  # fmt: skip


def _tasks(
    draw: Any, p: FabricProgram, at: Place, todo: list[ops.Op], names: tuple[str, ...],
    x: ops.Buffer, straight: bool,
) -> None:  # fmt: skip
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
            activate = draw(st.sampled_from((None, *names[which + 1 :])))  # or it may run for ever
            thread = draw(st.integers(1, THREADS - 1))
            op = dataclasses.replace(op, thread=thread, activate=activate)
        part.append(op)
    for name, part in zip(names, parts, strict=True):
        start = straight or draw(st.integers(0, 5)) > 0
        p.task(name, part or [ops.Code(1)], at, start=start)


def wide_shape(e: Encoded) -> Shape:
    """A shape that allows for whatever these programs do, so that all share one compilation."""
    sides = tuple(range(5))
    pairs = tuple((i, j) for i in range(len(COLORS)) for j in range(i + 1, len(COLORS)))
    return dataclasses.replace(
        shape_of(e), channels=tuple((c, d) for c in range(len(COLORS)) for d in sides),
        sides=(sides,) * len(COLORS), positions=(2,) * len(COLORS), control=True,
        link_pairs=pairs, ramp_pairs=pairs, threads=THREADS, tasked=True, stamps=1, tasks=3,
        instructions=256, kinds=(VECTOR, CODE, STAMP, ACTIVATE, BLOCK, UNBLOCK, SWITCH),
    )  # fmt: skip


def data(seed: int) -> dict[str, np.ndarray]:
    """Random content of the programs' buffers."""
    made = np.random.default_rng(seed).standard_normal((2, HEIGHT, WIDTH, WORDS))
    return {"x": made[0].astype(np.float32), "y": made[1].astype(np.float32)}
