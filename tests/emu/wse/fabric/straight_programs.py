"""Random straight programs with their values worked out one by one, for hypothesis.

Streams are dealt out in one global order, so that no program waits for what never comes; how far
a sender may run ahead of its readers is left to chance.
"""

import dataclasses
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

from emu.datasheet import Quantity
from emu.wse.datasheets.datasheet import WSE2, WSE3
from emu.wse.fabric import ops
from emu.wse.fabric.directions import DIRECTIONS
from emu.wse.fabric.program import FREE, FabricProgram

ELEMENTS = 24
STEPS = ((-1, 0), (0, 1), (1, 0), (0, -1))
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
Place = tuple[int, int]


def narrow(sheet: Any, inward: int, outward: int, router: int) -> Any:
    """The sheet with queues of these depths."""
    depths = {
        "input_queue_words": (inward,) * 8,
        "output_queue_words": (outward,) * 8,
        "router_queue_words": router,
    }
    made = {k: Quantity(v, "published", "a test") for k, v in depths.items()}
    return dataclasses.replace(sheet, **made)


DEVICES = (WSE3.at(), WSE2.at(), narrow(WSE3, 1, 1, 1).at(), narrow(WSE2, 2, 2, 1).at())


@dataclasses.dataclass
class Made:
    """A program, its data, and what its buffers must hold in the end."""

    program: FabricProgram
    data: dict[str, np.ndarray]
    wanted: dict[str, np.ndarray]


@dataclasses.dataclass
class Tree:
    """One sender's routers on a color, and those that deliver."""

    color: str
    sender: Place
    readers: list[Place]


@st.composite
def forests(draw: Any, p: FabricProgram, color: str) -> list[Tree]:
    """Trees of one color that share no router."""
    p.color(color, FREE, FREE)
    taken: set[Place] = set()
    trees = []
    for _ in range(draw(st.integers(1, 3))):
        root = draw(st.integers(0, p.height - 1)), draw(st.integers(0, p.width - 1))
        if root in taken:
            continue
        sends: dict[Place, list[str]] = {root: []}
        hears = {root: "ramp"}
        for _ in range(draw(st.integers(1, 6))):
            y, x = draw(st.sampled_from(sorted(sends)))
            side = draw(st.integers(0, 3))
            to = y + STEPS[side][0], x + STEPS[side][1]
            inside = 0 <= to[0] < p.height and 0 <= to[1] < p.width
            if inside and to not in sends and to not in taken:
                sends[y, x].append(DIRECTIONS[side])
                sends[to], hears[to] = [], DIRECTIONS[(side + 2) % 4]
        readers = [
            at for at in sends if at != root and (not sends[at] or draw(st.booleans()))
        ]
        if not readers:
            continue
        taken |= set(sends)
        for at, out in sends.items():
            p.route(
                color, at, receive=hears[at], send=[*out, *["ramp"] * (at in readers)]
            )
        trees.append(Tree(color, root, readers))
    return trees


@st.composite
def programs(draw: Any, colors: int = 4, rounds: int = 8) -> Made:
    """Streams between random places, through memory or straight on, cut anyhow by their readers."""
    p = FabricProgram(draw(st.integers(2, 4)), draw(st.integers(1, 3)))
    dtype = draw(st.sampled_from(sorted(DTYPES)))
    trees = [t for k in range(colors) for t in draw(forests(p, "abcdefgh"[k]))]
    x, y = p.buffer("x", ELEMENTS, dtype), p.buffer("y", ELEMENTS, dtype)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    shape = (p.height, p.width, ELEMENTS)
    data = {n: rng.standard_normal(shape).astype(DTYPES[dtype]) for n in "xy"}
    wanted = {n: a.copy() for n, a in data.items()}
    work: dict[Place, list[ops.Op]] = {}
    for _ in range(draw(st.integers(1, rounds)) if trees else 0):
        _stream(draw, trees, work, wanted, x, y)
    rest = {at: draw(st.integers(1, len(code))) for at, code in work.items()}
    for name, part in (("first", 0), ("second", 1)):
        for at, code in work.items():
            own = code[rest[at] :] if part else code[: rest[at]]
            if own:
                p.task(name, own, at, start=True)
    return Made(p, data, wanted)


def rounded(x: np.ndarray, dtype: Any) -> np.ndarray:
    return x.astype(np.float32).astype(dtype)


def _stream(
    draw: Any,
    trees: list[Tree],
    work: dict[Place, list[ops.Op]],
    wanted: dict[str, np.ndarray],
    x: ops.Buffer,
    y: ops.Buffer,
) -> None:
    """One operation's words from a sender to its readers, who may pass them straight on."""
    t = draw(st.sampled_from(trees))
    step = 4 // np.dtype(DTYPES[x.dtype]).itemsize
    n = step * draw(st.integers(1, ELEMENTS // step))
    own = work.setdefault(t.sender, [])
    _between(draw, own)
    if draw(st.booleans()):
        own.append(ops.copy(ops.send(t.color), x[:n]))
        sent = wanted["x"][t.sender][:n].copy()
    else:
        own.append(ops.add(ops.send(t.color), x[:n], y[:n]))
        sent = _sum(wanted["x"][t.sender][:n], wanted["y"][t.sender][:n])
    for at in t.readers:
        code = work.setdefault(at, [])
        onward = [o for o in trees if o.sender == at]
        if onward and draw(st.booleans()):
            o = draw(st.sampled_from(onward))
            _between(draw, code)
            code.append(ops.add(ops.send(o.color), ops.receive(t.color), x[:n]))
            passed = _sum(sent, wanted["x"][at][:n])
            for to in o.readers:
                _reads(draw, o.color, work.setdefault(to, []), passed, wanted, to, x, y)
        else:
            _reads(draw, t.color, code, sent, wanted, at, x, y)


def _sum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return rounded(a.astype(float) + b.astype(float), a.dtype)


def _reads(
    draw: Any,
    color: str,
    code: list[ops.Op],
    sent: np.ndarray,
    wanted: dict[str, np.ndarray],
    at: Place,
    x: ops.Buffer,
    y: ops.Buffer,
) -> None:
    """A reader takes a stream in operations of its own lengths."""
    step = 4 // sent.dtype.itemsize
    begin = 0
    while begin < len(sent):
        _between(draw, code)
        take = step * draw(st.integers(1, (len(sent) - begin) // step))
        own = {k: a[at] for k, a in wanted.items()}
        _read(draw, color, code, slice(begin, begin + take), sent, own, x, y)
        begin += take


def _read(
    draw: Any,
    color: str,
    code: list[ops.Op],
    part: slice,
    sent: np.ndarray,
    own: dict[str, np.ndarray],
    x: ops.Buffer,
    y: ops.Buffer,
) -> None:
    """A reader's operation on the elements `part` of a stream."""
    came = sent[part].astype(float)
    kind = draw(st.sampled_from(("copy", "add", "max", "fmac", "mul")))
    stream = ops.receive(color, part.stop - part.start)
    if kind == "copy":
        code.append(ops.copy(y[part], stream))
        own["y"][part] = sent[part]
    elif kind == "fmac":
        code.append(ops.fmac(y[part], stream, x[part]))
        term = (came * own["x"][part].astype(float)).astype(np.float32).astype(float)
        own["y"][part] = rounded(own["y"][part].astype(float) + term, own["y"].dtype)
    else:
        join = {"add": np.add, "max": np.maximum, "mul": np.multiply}[kind]
        code.append(ops.Vector(kind, y[part], stream, x[part]))
        own["y"][part] = rounded(
            join(came, own["x"][part].astype(float)), own["y"].dtype
        )


def _between(draw: Any, code: list[ops.Op]) -> None:
    """Scalar code and stamps before a stream's operation."""
    for _ in range(draw(st.integers(0, 2))):
        code.append(
            draw(
                st.sampled_from(
                    (ops.Code(1), ops.Code(40), ops.Load(2), ops.Stamp("s"))
                )
            )
        )


__all__ = ["DEVICES", "ELEMENTS", "Made", "narrow", "programs"]
