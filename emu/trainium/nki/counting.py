"""A `range` that tells the recorder where each iteration of a kernel's plain loops begins."""

from collections.abc import Iterator, Sequence
from typing import overload

from emu.trainium.nki.record import current, recording


class Range:
    """Stands for `range` in a kernel's modules; outside a kernel that runs it is nothing else."""

    __slots__ = ("numbers",)

    def __init__(self, *arguments: int):
        self.numbers = range(*arguments)

    def __iter__(self) -> Iterator[int]:
        if not recording():
            return iter(self.numbers)
        return current().turns(self.numbers, "python")

    def __reversed__(self) -> Iterator[int]:
        return iter(self[::-1])

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> "Range": ...
    def __getitem__(self, place: int | slice) -> "int | Range":
        if isinstance(place, slice):
            part = self.numbers[place]
            return Range(part.start, part.stop, part.step)
        return self.numbers[place]

    def __contains__(self, number: object) -> bool:
        return number in self.numbers

    def __bool__(self) -> bool:
        return bool(self.numbers)

    def __eq__(self, other: object) -> bool:
        return self.numbers == (other.numbers if isinstance(other, Range) else other)

    def __hash__(self) -> int:
        return hash(self.numbers)

    def __repr__(self) -> str:
        return repr(self.numbers)

    @property
    def start(self) -> int:
        return self.numbers.start

    @property
    def stop(self) -> int:
        return self.numbers.stop

    @property
    def step(self) -> int:
        return self.numbers.step

    def index(self, number: int) -> int:
        return self.numbers.index(number)

    def count(self, number: int) -> int:
        return self.numbers.count(number)


# As a `range` is one: `random.sample` and others ask.
Sequence.register(Range)  # pyright: ignore[reportAttributeAccessIssue]
