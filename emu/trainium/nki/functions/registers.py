"""Registers of an engine's sequencer: trip counts, conditions and offsets read from tensors.

While a kernel is recorded a register is a number: what it loads has to follow from the values of
the kernel's arguments (`known`). Loading one takes no time here; AWS publishes none.
"""

from __future__ import annotations

from collections.abc import Iterator

from emu.trainium.nki.functions.checks import refuse
from emu.trainium.nki.functions.elementwise import memset
from emu.trainium.nki.functions.operands import handle, is_tile
from emu.trainium.nki.record import current


class Register:
    """A virtual register, `nisa.register_alloc(5)`; it may be a loop's bound or its condition."""

    def __init__(self, value: int | None = None):
        self.value = value

    def __index__(self) -> int:
        if self.value is None:
            refuse(
                "nki.isa.register_alloc", "the register is read, must be written before"
            )
        return self.value

    __int__ = __index__

    def __bool__(self) -> bool:
        return self.__index__() != 0

    def __eq__(self, other: object) -> bool:
        return self.__index__() == other

    __hash__ = None  # pyright: ignore[reportAssignmentType]


def number_of(value: object, function: str, argument: str) -> int:
    """A whole number: a plain one, a register's, or what a tensor of one element holds."""
    if is_tile(value):
        held = handle(value, function, argument)
        if held.size != 1:
            refuse(function, f"{argument} is {list(held.shape)}, must be one element")
        return int(current().value(held, function).reshape(-1)[0])
    if hasattr(value, "__index__"):
        return value.__index__()  # pyright: ignore[reportAttributeAccessIssue]
    refuse(function, f"{argument} is {value!r}, must be a number, a register or a tile")


def register_alloc(x: object = None) -> Register:
    """A register; `x` is a number or a tensor of one element that it begins with."""
    if x is None:
        return Register()
    return Register(number_of(x, "nki.isa.register_alloc", "x"))


def register_load(dst: Register, src: object) -> None:
    """`dst` gets what a tensor of one element holds."""
    dst.value = number_of(src, "nki.isa.register_load", "src")


def register_move(dst: Register, src: object) -> None:
    """`dst` gets a number or another register's."""
    dst.value = number_of(src, "nki.isa.register_move", "src")


def register_store(dst: object, src: object) -> None:
    """A tensor of one element gets what a register holds."""
    name = "nki.isa.register_store"
    value = number_of(src, name, "src")
    memset(handle(dst, name, "dst"), value, name=name)


def dynamic_range(
    start: object, stop: object = None, step: object = 1
) -> Iterator[int]:
    """A loop whose bounds are numbers, registers or tensors of one element."""
    name = "nki.language.dynamic_range"
    first, last = (0, start) if stop is None else (start, stop)
    turns = range(
        number_of(first, name, "start"),
        number_of(last, name, "stop"),
        number_of(step, name, "step"),
    )
    return current().turns(turns, "dynamic")
