"""Named values that were made in another tile, and what happens when that one is written again.

`new = nl.maximum(old, x)` and then `state[...] = new` make the maximum in `state` at once, and
`new` goes on to stand for it. If `state` is written again while the kernel still holds `new`, its
content is copied away first, which is what the assignment says.
"""

import weakref

from emu.trainium import isa
from emu.trainium.nki.functions.engines import offer, way
from emu.trainium.nki.handles import Handle, fresh
from emu.trainium.nki.record import current
from emu.trainium.nki.tree import Access


def note(value: Handle) -> None:
    """From now on `value` stands for a part of another tile."""
    known = current().aliases.setdefault(value.tensor, [])
    known.append(weakref.ref(value))


def held(write: Access) -> list[Handle]:
    """Values that the kernel still holds and that an operation would write over."""
    known = current().aliases.get(write.tensor)
    if not known:
        return []
    alive = [value for reference in known if (value := reference()) is not None]
    alive = [value for value in alive if value.tensor is write.tensor]
    current().aliases[write.tensor] = [weakref.ref(value) for value in alive]
    return [value for value in alive if _overlap(value.access(), write)]


def keep(write: Access) -> None:
    """Copies such values away."""
    for value in held(write):
        read = value.access()
        copy = fresh(value.shape, value.dtype, "sbuf")
        target = copy.access()
        choices = offer(None, "nki.language.copy", way("vector", isa.tensor_copy))
        if read.axes and target.axes:
            current().emit(
                "nki.language.copy", choices, (target,), (read,), implicit=True
            )
            value.become(copy)


def _overlap(one: Access, other: Access) -> bool:
    """Whether two parts may have elements in common."""
    if tuple(i.constant for i in one.member) != tuple(i.constant for i in other.member):
        return False
    return _meet(_rows(one), _rows(other)) and _meet(_columns(one), _columns(other))


def _meet(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]


def _rows(access: Access) -> tuple[int, int]:
    first = access.partition.constant
    return first, first + ((access.partitions or 1) - 1) * access.partition_step


def _columns(access: Access) -> tuple[int, int]:
    first = access.offset.constant
    least = first + sum(min(0, stride * (count - 1)) for stride, count in access.axes)
    most = first + sum(max(0, stride * (count - 1)) for stride, count in access.axes)
    return least, most
