"""Integers that a kernel reads back while it is recorded: trip counts, indices of experts, offsets.

What a tensor holds is known on the device alone. But if the arrays that a kernel is recorded for
are given with their values, whatever depends on them can be computed, and a loop of as many turns
as an array says, or an access at an offset that it holds, is recorded for these values.

The operations that a tensor depends on are run as they come (`interpret`), none before its value is
asked for.
"""

from typing import TYPE_CHECKING

import numpy as np

from emu.errors import EmulationError
from emu.trainium.nki.interpret import Buffers, steps
from emu.trainium.nki.tree import Operation, Tensor

if TYPE_CHECKING:
    from emu.trainium.nki.handles import Handle


class Unlogged(Exception):
    """A value is asked for and no operation was kept: the kernel is to be run once more."""


class Log:
    """Every operation as it was made, before any was rolled, and what tensors hold after it.

    Attributes:
      operations: so far.
      given: values of the inputs, as far as they are arrays.
    """

    def __init__(self, given: dict[Tensor, np.ndarray]):
        self.operations: list[Operation] = []
        self.given = given
        self._first: dict[Tensor, int] = {}
        self._followed: set[Tensor] = set()
        self._done = 0
        self._buffers = Buffers(given)

    def add(self, operation: Operation) -> None:
        for access in operation.writes:
            self._first.setdefault(access.tensor, len(self.operations))
        self.operations.append(operation)

    def value(self, handle: "Handle", function: str, place: str) -> np.ndarray:
        """What a tile or buffer holds now."""
        self._follow({handle.tensor}, function, place)
        return np.array(self._buffers.part(handle.access(), {}))

    def _follow(self, wanted: set[Tensor], function: str, place: str) -> None:
        needed = self._needed(wanted, self._done)
        fresh = needed - self._followed
        # A tensor that was written before, when nobody followed it: from the start again.
        if any(self._first.get(tensor, self._done) < self._done for tensor in fresh):
            self._done = 0
            self._buffers = Buffers(self.given)
            needed = self._needed(needed | self._followed, 0)
        self._followed |= needed
        for tensor in needed:
            if tensor.role == "input" and tensor not in self.given:
                raise EmulationError(
                    f"{function}: what {tensor.name} holds decides, must be given as an array "
                    "with its values and not as a shape alone",
                    place,
                )
        for operation in self.operations[self._done :]:
            if any(access.tensor in self._followed for access in operation.writes):
                if operation.choice.instruction.across:
                    raise EmulationError(
                        f"{function}: depends on {operation.name}, whose result another core has; "
                        "must be known on its own core",
                        place,
                    )
                for _ in steps([operation], self._buffers, {}):
                    pass
        self._done = len(self.operations)

    def _needed(self, wanted: set[Tensor], since: int) -> set[Tensor]:
        """With all tensors that `wanted` come to depend on from some operation on."""
        needed = set(wanted) | self._followed
        for operation in reversed(self.operations[since:]):
            if any(access.tensor in needed for access in operation.writes):
                needed.update(access.tensor for access in operation.accesses)
        return needed


__all__ = ["Log", "Unlogged"]
