"""Wrong fabric programs, one a line: each is refused by name, in one line, with the user's line.

A fault that this file makes must be told with this file's name; where a number is the cause, the
message has the number and what it may be.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from emu import Program, wse
from emu.errors import EmulationError
from emu.wse import WSE2, WSE3, trees
from emu.wse.collectives import programs
from emu.wse.collectives.programs import Line
from emu.wse.fabric import ops, stepper
from emu.wse.fabric.ops import (
    Activate,
    Block,
    Code,
    Control,
    Load,
    Map,
    Pause,
    Stamp,
    Switch,
    Unblock,
    Vector,
    add,
    copy,
    fmac,
    receive,
    send,
)
from emu.wse.fabric.program import FREE, FabricProgram

DEVICE = WSE3.at()
s_ = np.s_


class Pair(FabricProgram):
    """PE 0 sends `red` to PE 1, which may send `blue` back; all hold `x`, `y` and `one`."""

    def __init__(self, colors: int = 2, **how: Any):
        super().__init__(2, **how)
        self.x, self.y = self.buffer("x", 8), self.buffer("y", 8)
        self.one = self.buffer("one", 1)
        for name in ("red", "blue", *(f"c{n}" for n in range(2, colors)))[:colors]:
            forth = name != "blue"
            self.color(name, FREE, FREE)
            sender, receiver = (0, 1) if forth else (1, 0)
            on, back = ("east", "west") if forth else ("west", "east")
            self.route(name, s_[0, sender], receive="ramp", send=on)
            self.route(name, s_[0, receiver], receive=back, send="ramp")

    def first(self, *code: Any, name: str = "main", **how: Any) -> "Pair":
        self.task(name, list(code), s_[0, 0], start=how.pop("start", True), **how)
        return self

    def second(self, *code: Any, name: str = "main", **how: Any) -> "Pair":
        self.task(name, list(code), s_[0, 1], start=how.pop("start", True), **how)
        return self

    def run(self, data: Any = None, sheet: Any = WSE3, **how: Any) -> Any:
        return stepper.run(self, sheet.at(), data, **how)


def sends(p: Pair, elements: int = 8, **how: Any) -> Vector:
    return copy(send("red"), p.x[:elements], **how)


def takes(p: Pair, elements: int = 8, **how: Any) -> Vector:
    return copy(p.y[:elements], receive("red"), **how)


def with_pair(make: Callable[[Pair], Any]) -> Callable[[], Any]:
    return lambda: make(Pair())


def both(*of_first: Callable[[Pair], Any], second: Any = ()) -> Callable[[], Any]:
    """Runs a pair whose PEs do some operations."""

    def make() -> Any:
        p = Pair()
        p.first(*(each(p) for each in of_first))
        if second:
            p.second(*(each(p) for each in second))
        return p.run()

    return make


def on_line(lay: Callable[[Line, ops.Buffer, ops.Buffer], Any]) -> Callable[[], Any]:
    def make() -> Any:
        p = FabricProgram(4)
        x, y = p.buffer("x", 8), p.buffer("y", 32)
        lay(Line(p), x, y).declare(p, "main", start=True)
        return stepper.run(p, DEVICE)

    return make


def on_timeline(call: Callable[[Any], Any]) -> Callable[[], Any]:
    """Reads the clock of a collective on a mesh of 4 x 3 PEs."""
    program = Program(call, {"row": 4, "col": 3}, (("row", "col"),))
    tile = jax.ShapeDtypeStruct((4, 3, 12), jax.numpy.float32)
    return lambda: program.read(DEVICE, tile)


def route(**how: Any) -> Callable[[], Any]:
    given = {"receive": "ramp", "send": "east", **how}
    return lambda: FabricProgram(2).route(given.pop("color", "red"), s_[0, 0], **given)


def task(*code: Any, **how: Any) -> Callable[[], Any]:
    return lambda: FabricProgram(2).task(how.pop("name", "t"), list(code), **how)


def buffer(elements: Any = 4, **how: Any) -> Callable[[], Any]:
    return lambda: FabricProgram(2).buffer(how.pop("name", "x"), elements, **how)


def twice(declare: Callable[[FabricProgram], Any]) -> Callable[[], Any]:
    def make() -> None:
        p = FabricProgram(2)
        declare(p)
        declare(p)

    return make


def two_data_tasks() -> Any:
    p = Pair().first(*[sends(Pair())])
    for name in ("a", "b"):
        p.second(Code(1), name=name, start=False, on_wavelet="red")
    return p.run()


def another_s_buffer() -> Any:
    other = FabricProgram(1).buffer("z", 4)
    return Pair().first(add(other[:], other[:], 1.0)).run()


def another_s_slice() -> Any:
    other = FabricProgram(1).buffer("x", 40)
    return Pair().first(add(other[30:38], other[30:38], 1.0)).run()


def switch_to(position: int) -> Callable[[], Any]:
    def make() -> Any:
        p = Pair()
        p.route("red", s_[0, 1], receive="west", send="ramp", then=[("west", ())])
        return p.run()

    return make if position < 0 else lambda: Pair().first(Switch("red", position)).run()


def circle() -> Any:
    p = FabricProgram(2, 2)
    for y, x, back, on in (
        (0, 0, "south", "east"),
        (0, 1, "west", "south"),
        (1, 1, "north", "west"),
        (1, 0, "east", "north"),
    ):
        p.route("red", s_[y, x], receive=back, send=on)
    p.task("main", [Code(1), Activate("then")], start=True)
    p.task("then", [Code(1)])
    return stepper.run(p, DEVICE)


def two_threads() -> Any:
    p = Pair()
    p.first(sends(p), sends(p))
    p.second(takes(p, thread=1), takes(p, thread=2))
    return p.run()


def blocked_for_ever() -> Any:
    return Pair().first(Code(1), blocked=True).run()


def over_full() -> Any:
    p = FabricProgram(2)
    p.buffer("w", 12_000)
    return stepper.run(p, DEVICE)


def wide_task_names() -> Any:
    p = FabricProgram(1)
    for number in range(32):
        p.task(f"t{number}", [Code(1)])


def too_many_stamps() -> Any:
    stamps = [Stamp(f"s{number}") for number in range(511)]
    return Pair().first(*stamps).run()


def bad_function() -> Any:
    p = Pair()
    p.first(Code(3, "halve", p.y[:], lambda x: x[:, :3], (p.x[:],)))
    return p.run({"x": 1.0})


def odd_width() -> Any:
    p = Pair()
    p.first(sends(p))
    p.second(copy(send("blue", 8, "float16"), receive("red", 8, "float32")))
    return p.run()


X = FabricProgram(2).buffer("x", 8)
RED = send("red")
WHOLE = "must be a whole number"
FAULTS: dict[str, tuple[Callable[[], Any], str]] = {
    # --- programs and places ---
    "width 0": (lambda: FabricProgram(0), f"width is 0, {WHOLE} of 1 or more"),
    "width 1.5": (lambda: FabricProgram(1.5), f"width is 1.5, {WHOLE}"),  # type: ignore
    "height '2'": (lambda: FabricProgram(2, "2"), f"height is '2', {WHOLE}"),  # type: ignore
    "height True": (lambda: FabricProgram(2, True), f"height is True, {WHOLE}"),
    "code bytes below 0": (
        lambda: FabricProgram(2, code_bytes=-1),
        "code_bytes is -1, .* 0 or more",
    ),
    "wider than the wafer": (
        lambda: stepper.run(FabricProgram(756), DEVICE),
        "width is 756, WSE-3 has 755",
    ),
    "a place off the grid": (
        lambda: FabricProgram(2).place(s_[0, 2]),
        r"place \(0, 2\) is none of the program's 1 x 2 PEs",
    ),
    "a mask of another shape": (
        lambda: FabricProgram(2).place(np.ones((2, 2), bool)),
        "is none of the program's 1 x 2 PEs",
    ),
    "a place of floats": (
        lambda: FabricProgram(2).place((0, 0.5)),
        r"place \(0, 0.5\) is none",
    ),
    # --- colors and queues ---
    "a color that is a number": (
        lambda: FabricProgram(2).color(3),  # type: ignore
        "color: its name is 3, must be a name",
    ),
    "queue -1": (
        lambda: FabricProgram(2).color("red", input_queue=-1),
        "input_queue, unless it is 'free', is -1",
    ),
    "queue 'any'": (
        lambda: FabricProgram(2).color("red", output_queue="any"),  # type: ignore
        "output_queue, unless it is 'free', is 'any'",
    ),
    "queue 8": (
        lambda: [(p := Pair()).color("new", input_queue=8), p.run()],
        "'new': input queue 8, WSE-3 has 0 to 7",
    ),
    "output queue 6 of a WSE-2": (
        lambda: [(p := Pair()).color("new", output_queue=6), p.run(sheet=WSE2)],
        "'new': output queue 6, WSE-2 has 0 to 5",
    ),
    "another queue than before": (
        lambda: Pair().color("red", input_queue=4),
        "is 4, but the color was declared before with free",
    ),
    "nine colors into a PE": (
        lambda: [
            (p := Pair(10)).first(
                *(copy(send(c), p.x[:]) for c in p.colors if c != "blue")
            ),
            p.second(*(copy(p.y[:], receive(c)) for c in p.colors if c != "blue")),
            p.run(),
        ],
        r"9 colors \('red', .*, WSE-3 has 8 (in|out)put queues",
    ),
    "25 colors": (
        lambda: Pair(25).run(),
        "colors is 25, WSE-3 has 24",
    ),
    "positions 5": (
        lambda: FabricProgram(2).color("red", positions=5),
        "positions is 5, .* from 1 to 4",
    ),
    # --- routes ---
    "a direction that is none": (
        route(send="up"),
        "send is 'up', must be one of north,",
    ),
    "a direction by number": (route(receive=3), "receive is 3, must be one of north,"),
    "no direction": (route(receive=()), "receive names no direction"),
    "five positions": (
        route(then=[("ramp", "east")] * 4),
        "5 positions, a switch has 4",
    ),
    "a position that is no pair": (
        route(then=["east"]),
        r"then has 'east', must have pairs",
    ),
    "control that resets": (
        route(on_control="reset"),
        "on_control is 'reset', must be one of advance, ignore",
    ),
    "a route off the edge": (
        lambda: [
            (p := Pair()).route("red", s_[0, 1], receive="west", send="east"),
            p.run(),
        ],
        r"PE \(x=1, y=0\) sends east, off the edge",
    ),
    "a route to a deaf router": (
        lambda: [
            (p := Pair()).route("red", s_[0, 1], receive="ramp", send="ramp"),
            p.run(),
        ],
        "where the router does not receive from west",
    ),
    "a circle": (circle, "its route turns in a circle"),
    # --- buffers and slices ---
    "0 elements": (buffer(0), "buffer 'x': elements is 0, .* of 1 or more"),
    "4.5 elements": (buffer(4.5), "elements is 4.5"),
    "int32": (buffer(dtype="int32"), "dtype is 'int32', must be one of float32,"),
    "float64": (buffer(dtype="float64"), "dtype is 'float64'"),
    "bool": (buffer(dtype="bool"), "dtype is 'bool'"),
    "complex": (buffer(dtype="complex64"), "dtype is 'complex64'"),
    "an unknown dtype": (buffer(dtype="bogus"), "dtype is 'bogus'"),
    "bank 8": (buffer(bank=8), "bank is 8, .* from 0 to 7"),
    "a buffer off the grid": (buffer(where=s_[1]), "place 1 is none"),
    "a buffer without a name": (buffer(name=""), "its name is '', must be a name"),
    "a buffer twice": (twice(lambda p: p.buffer("x", 4)), "'x' is declared twice"),
    "more than SRAM": (over_full, r"52176 bytes .* has 49152; .* 3024 bytes smaller"),
    "index 8 of 8": (lambda: X[8], "index is 8, .* from -8 to 7"),
    "index 1.0": (lambda: X[1.0], "index is 1.0"),  # type: ignore
    "an empty slice": (lambda: X[4:4], "is empty or runs backwards"),
    "a slice of floats": (lambda: X[0.5:], "is none"),  # type: ignore
    "a slice backwards": (lambda: X[::-1], "is empty or runs backwards"),
    "another program's buffer": (another_s_buffer, "no buffer 'z', has x, y, one"),
    "another program's slice": (another_s_slice, "from 30 on are no part of this pro"),
    "a buffer that the PE lacks": (
        lambda: [
            (p := Pair()).buffer("z", 4, where=s_[0, 0]),
            p.second(Map(p.y[:4], p.x[:4], p.one[:])).second(
                add(ops.Buffer("z", 4, "float32", 68)[:], p.x[:4], 1.0), name="other"
            ),
            p.run(),
        ],
        r"PE \(x=1, y=0\) does not hold buffer 'z'",
    ),
    # --- streams ---
    "receive(-1)": (lambda: receive("red", -1), "elements is -1, .* of 1 or more"),
    "send of 0": (lambda: send("red", 0), "elements is 0"),
    "a stream of int8": (lambda: send("red", 4, "int8"), "dtype is 'int8'"),
    "a stream without a color": (lambda: receive(None), "its color is None"),  # type: ignore
    "a color that is not": (
        both(lambda p: copy(send("grey"), p.x[:])),
        "no color 'grey', has red, blue",
    ),
    "2^32 + 5 words": (
        both(lambda p: add(send("red", 2**32 + 5), p.one[0], 1.0)),
        "4294967301 issues, at most 2147483647",
    ),
    "a sender whose router hears others": (
        lambda: (p := Pair()).second(sends(p)).run(),
        r"PE \(x=1, y=0\) sends on it, but its router receives from west",
    ),
    "the same, with tasks that start one another": (
        lambda: (
            (p := Pair())
            .second(sends(p), Activate("then"))
            .second(Code(1), name="then", start=False)
            .run()
        ),
        r"PE \(x=1, y=0\) sends on it, but its router receives from west",
    ),
    "a reader that is not delivered to": (
        lambda: (p := Pair()).first(takes(p)).run(),
        r"PE \(x=0, y=0\) receives on it, but its router passes it on",
    ),
    "streams of two widths": (odd_width, "takes 8 wavelets and sends 4"),
    # --- operations ---
    "an operation that is none": (
        lambda: Vector("div", X[:], X[:], 2.0),
        "op is 'div'",
    ),
    "into a number": (lambda: add(3.0, X[:], X[:]), "dst is 3.0, must be memory or se"),
    "a word as a source": (lambda: copy(X[:], "x"), "a is 'x', must be memory, rec"),  # type: ignore
    "a complex number": (lambda: mul_by(1j), "b is 1j, .* a real number"),
    "True as a number": (lambda: mul_by(True), "b is True"),
    "a buffer as a source": (lambda: copy(X[:], X), "a is Buffer"),  # type: ignore
    "counts that differ": (lambda: add(X[:4], X[:5], 1.0), "have 4, 5 elements"),
    "two streams in": (
        lambda: add(X[:], receive("red"), receive("blue")),
        "two fabric sources",
    ),
    "a source that sends": (lambda: copy(X[:], RED), r"a source is send\(\)"),
    "fmac into a stream": (lambda: fmac(RED, X[:], X[:]), "dst is a stream"),
    "wide without a thread": (
        lambda: copy(send("red", wide=True), X[:]),
        "leave out wide, or give a thread",
    ),
    "thread 8": (lambda: add(X[:], X[:], 1.0, thread=8), "thread is 8, .* 0 to 7"),
    "thread -1": (lambda: add(X[:], X[:], 1.0, thread=-1), "thread is -1"),
    "thread 1.0": (lambda: add(X[:], X[:], 1.0, thread=1.0), "thread is 1.0"),  # type: ignore
    "weights of another size": (
        lambda: Map(X[:3], X[:8], X[:2]),
        "weights have 8 elem",
    ),
    "a map of numbers": (lambda: Map(X[:2], 1.0, X[:2]), "weights is 1.0"),  # type: ignore
    "0 cycles": (lambda: Code(0), "cycles is 0, .* of 1 or more"),
    "1.5 cycles": (lambda: Code(1.5), "cycles is 1.5"),  # type: ignore
    "code that writes nothing": (
        lambda: Code(1, dst=X[:]),
        "no function, must have both",
    ),
    "a function of another shape": (bad_function, r"'halve': its function gave .* 3\]"),
    "0 descriptors": (lambda: Load(0), "descriptors is 0"),
    "a stamp by number": (lambda: Stamp(1), "its name is 1"),  # type: ignore
    "control for 3": (
        lambda: Control("red", 3),
        r"routers is 3, must be ops.OWN \(1\)",
    ),
    "control for -1": (lambda: Control("red", -1), "routers is -1"),
    "control for 7": (lambda: Control("red", 7), "routers is 7"),
    "control that is data": (lambda: Control("red", ops.DATA), "routers is 0"),
    "position 5": (switch_to(5), "position is 5, .* from 0 to 3"),
    "a position that the route lacks": (
        switch_to(2),
        r"position 2 on PE \(x=0, y=0\), whose route has positions 0 to 0",
    ),
    "a position that sends nowhere": (switch_to(-1), "send names no direction"),
    # --- tasks ---
    "no operations": (task(), "task 't' has no operations"),
    "an operation alone": (
        lambda: FabricProgram(2).task("t", Code(1)),  # type: ignore
        "code is one operation, must be a list",
    ),
    "a number as code": (task(Code(1), 5), r"code\[1\] is 5, must be an operation"),
    "a task by number": (task(Code(1), name=4), "its name is 4"),
    "a task off the grid": (task(Code(1), where=s_[3]), "place 3 is none"),
    "a task twice": (
        twice(lambda p: p.task("t", [Code(1)], s_[0, 1])),
        r"'t' is declared twice on PE \(x=1, y=0\), the first time in test_fabric_faults.py",
    ),
    "32 tasks": (wide_task_names, "'t31' is the 32th, a PE has 31 tasks"),
    "an argument of two": (
        task(Code(1), on_wavelet="red", argument=X[:2]),
        r"must be one element, such as x\[0\]",
    ),
    "an argument without a wavelet": (
        task(Code(1), argument=X[0]),
        "an argument but no on_wavelet",
    ),
    "wavelets of no color": (
        lambda: Pair().second(Code(1), start=False, on_wavelet="grey").run(),
        "wavelets of 'grey': no such color",
    ),
    "a data task that starts": (
        lambda: Pair().second(Code(1), on_wavelet="red").run(),
        "must not have start=True",
    ),
    "two data tasks of a color": (two_data_tasks, "start task 'a' and task 'b'"),
    "a data task activated": (
        lambda: (
            Pair()
            .second(Code(1), name="heard", start=False, on_wavelet="red")
            .second(Activate("heard"))
            .run()
        ),
        "'main' activates a data task, 'heard'",
    ),
    "a task that is not": (
        both(lambda p: Activate("other")),
        "no task 'other', has main",
    ),
    "a task without code there": (
        lambda: (
            Pair()
            .first(Activate("then"))
            .second(Code(1), name="then", start=False)
            .run()
        ),
        r"activates task 'then' on PE \(x=0, y=0\), where it has no code",
    ),
    "the same, by a microthread": (
        lambda: (
            (p := Pair())
            .first(add(p.x[:], p.x[:], 1.0, thread=1, activate="then"))
            .second(Code(1), name="then", start=False)
            .run()
        ),
        r"activates task 'then' on PE \(x=0, y=0\), where it has no code",
    ),
    "blocks a task without code there": (
        lambda: Pair().first(Block("then")).second(Code(1), name="then").run(),
        "blocks task 'then' on PE",
    ),
    "unblocks a task without code there": (
        lambda: Pair().first(Unblock("then")).second(Code(1), name="then").run(),
        "unblocks task 'then' on PE",
    ),
    "a synchronous operation that activates": (
        lambda: (p := Pair()).first(add(p.x[:], p.x[:], 1.0, activate="main")).run(),
        "give it a thread, or use Activate",
    ),
    "a pause at the end": (
        both(lambda p: Code(1), lambda p: Pause()),
        "ends with Pause",
    ),
    # --- lines and collectives ---
    "a root outside the line": (
        on_line(lambda line, x, y: programs.multicast(line, x[:], "m", 99)),
        "multicast: root is 99, .* from 0 to 3",
    ),
    "root -1": (
        on_line(lambda line, x, y: programs.multicast(line, x[:], "m", -1)),
        "multicast: root is -1",
    ),
    "a shift by 2": (
        on_line(lambda line, x, y: programs.shift(line, y[:8], x[:], "s", 2)),
        "shift: by is 2, must be 1 or -1",
    ),
    "a shift on one thread": (
        on_line(
            lambda line, x, y: programs.shift(line, y[:8], x[:], "s", threads=(1,))  # type: ignore
        ),
        r"threads is \(1,\), must be two",
    ),
    "a tree of another size": (
        on_line(lambda line, x, y: programs.reduce(line, x[:], trees.chain(5), "r")),
        "a tree of 5 PEs on a line of 4",
    ),
    "a tree by name": (
        on_line(lambda line, x, y: programs.reduce(line, x[:], "star", "r")),  # type: ignore
        "tree is 'star', must be one of trees",
    ),
    "routes that are none": (
        on_line(
            lambda line, x, y: programs.reduce(
                line, x[:], trees.star(4), "r", routes="short"
            )
        ),
        "routes is 'short', must be one of turned, fixed",
    ),
    "a reduce that divides": (
        on_line(
            lambda line, x, y: programs.reduce(line, x[:], trees.star(4), "r", op="div")
        ),
        "op is 'div'",
    ),
    "a ring of uneven chunks": (
        on_line(
            lambda line, x, y: programs.ring_all_reduce(
                line, line.program.buffer("z", 7), "r"
            )
        ),
        "has 7 elements, must be a multiple of the ring's 4",
    ),
    "a gather into too little": (
        on_line(lambda line, x, y: programs.gather(line, x, x[:], "g")),
        "'x' of 8, must be 32",
    ),
    "a scatter of a slice": (
        on_line(lambda line, x, y: programs.scatter(line, x[:], y[:], "s")),  # type: ignore
        "must be a buffer",
    ),
    "groups that do not divide": (
        lambda: Line(FabricProgram(4), group=3),
        "groups of 3 must divide 4",
    ),
    "groups of 0": (lambda: Line(FabricProgram(4), group=0), "group is 0"),
    "a line along z": (lambda: Line(FabricProgram(4), "z"), "along is 'z', .* x, y"),
    "a line within a row": (
        lambda: Line(FabricProgram(4), within=0),  # type: ignore
        "within is 0, must be two slices",
    ),
    "a place off the line": (lambda: Line(FabricProgram(4)).at(4), "is 4, .* 0 to 3"),
    "a tree of 0 PEs": (lambda: trees.chain(0), "PEs is 0"),
    "groups of a tree": (lambda: trees.two_phase(4, 0), "group is 0"),
    "more groups than PEs": (lambda: trees.two_tree(4, 5), "groups is 5, .* 1 to 4"),
    # --- collectives as instructions ---
    "an instruction's root": (
        on_timeline(lambda x: wse.multicast(x, x, axis="col", root=3)),
        "wse.multicast: root is 3, .* from 0 to 2",
    ),
    "a root between two PEs": (
        on_timeline(lambda x: wse.multicast(x, x, axis="col", root=1.5)),  # type: ignore
        "root is 1.5",
    ),
    "more elements than a tile": (
        on_timeline(lambda x: wse.multicast(x, x, axis="col", elements=13)),
        "elements is 13, .* from 0 to 12",
    ),
    "an axis that is not": (
        on_timeline(lambda x: wse.reduce(x, x, axis="depth")),
        "axis is 'depth', must be one of the program's mesh",
    ),
    "an axis by number": (
        on_timeline(lambda x: wse.reduce(x, x, axis=0)),  # type: ignore
        "axis is 0, must be a name",
    ),
    "an instruction that divides": (
        on_timeline(lambda x: wse.reduce(x, x, axis="col", op="div")),
        "wse.reduce: op is 'div', must be one of add, max",
    ),
    "an instruction's groups": (
        on_timeline(lambda x: wse.reduce(x, x, axis="row", group=3)),
        "a group of 3 must divide it",
    ),
    "groups of no PEs": (
        on_timeline(lambda x: wse.reduce(x, x, axis="row", group=0)),
        "group is 0",
    ),
    "an instruction's tree": (
        on_timeline(lambda x: wse.reduce(x, x, axis="row", tree=4)),  # type: ignore
        "tree is 4, must be one of trees",
    ),
    "one axis of two": (
        on_timeline(lambda x: wse.multicast_2d(x, x, axes="row")),  # type: ignore
        "axes is 'row', must be two",
    ),
    "an instruction's shift": (
        on_timeline(lambda x: wse.shift(x, x, axis="row", by=2)),
        "by is 2, must be 1 or -1",
    ),
    # --- runs ---
    "a sheet as the device": (
        lambda: stepper.run(Pair(), WSE3),  # type: ignore
        "device is 'WSE-3', must be a wafer's, such as WSE3.at",
    ),
    "a program that is none": (
        lambda: stepper.run("gemv", DEVICE),  # type: ignore
        "program is 'gemv', must be a FabricProgram",
    ),
    "an unknown path": (
        lambda: Pair().run(path=None),
        "path is None, must be one of auto",
    ),
    "0 cycles at most": (lambda: Pair().run(limit_cycles=0), "limit_cycles is 0"),
    "2^40 cycles at most": (
        lambda: Pair().run(limit_cycles=2**40),
        "limit_cycles is 10995",
    ),
    "watch off the grid": (
        lambda: Pair().run(watch=s_[0, 5]),
        r"place \(0, 5\) is none",
    ),
    "data for no buffer": (lambda: Pair().run({"z": 0.0}), "no such buffer, has x, y"),
    "data of another shape": (
        lambda: Pair().run({"x": [1.0] * 5}),
        r"must broadcast to",
    ),
    "data of words": (lambda: Pair().run({"x": ["a"] * 8}), "must be real numbers"),
    "complex data": (lambda: Pair().run({"x": 1j}), "complex128, must be real numbers"),
    "data without names": (
        lambda: Pair().run([1.0]),
        "data is list, must be a dictionary",
    ),
    "511 stamps": (too_many_stamps, "511 stamps, at most 510"),
    # --- found as it runs ---
    "a word that nobody sends": (
        both(lambda p: sends(p, 7), second=[takes]),
        "waits for 8 wavelets on color 'red', 7 came",
    ),
    "words that nobody reads": (
        both(sends, second=[lambda p: takes(p, 7)]),
        "1 wavelets on color 'red' are unread",
    ),
    "two threads on a color": (
        two_threads,
        "two threads take words of color 'red' at once",
    ),
    "a task blocked for ever": (blocked_for_ever, "is blocked and nobody unblocks it"),
}
WITHOUT_A_LINE = {
    *("wider than the wafer", "queue 8", "output queue 6 of a WSE-2", "25 colors"),
    *("a route off the edge", "a route to a deaf router", "a circle", "more than SRAM"),
    *("data for no buffer", "data of another shape", "data of words", "complex data"),
    *("511 stamps", "words that nobody reads", "a task blocked for ever"),
}
"""What is no one line's fault: of whole programs, of data, or of what nobody does."""


def mul_by(number: Any) -> Vector:
    return Vector("mul", X[:], X[:], number)


@pytest.mark.parametrize("fault", FAULTS)
def test_refused_by_name(fault: str) -> None:
    make, says = FAULTS[fault]
    with pytest.raises(EmulationError, match=says) as refused:
        make()
    told = str(refused.value)
    assert "\n" not in told and len(told) < 500
    assert ("(test_fabric_faults.py:" in told) == (fault not in WITHOUT_A_LINE)
