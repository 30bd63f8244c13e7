"""Least and greatest values of whole numbers, which decide comparisons and how numbers are held.

Of `q - k` with both from 0 to 90 that is -90 to 90: `q - k < 91` is true of all, and a float32
holds every such difference exactly.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from emu.lower import Constant, Elementwise, Operand, Operation, Slot
from emu.wse.lower.nodes import Argument, Bounds

COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
ALIASES = (
    *("stop_gradient", "copy", "squeeze", "reshape", "broadcast_in_dim"),
    "reduce_precision",
)
"""Primitives that give one scalar as it is."""


class BoundsOf:
    """Bounds of a function's values.

    Args:
      function: of named arguments.
      arguments: how each lies on a PE, in the function's order.
    """

    def __init__(self, function: Elementwise, arguments: Sequence[Argument]):
        self._function = function
        self._arguments = arguments
        self._bounds: dict[int, Bounds | None] = {}

    def of(self, operand: Operand) -> Bounds | None:
        """Least and greatest value of an integer, as far as they are told."""
        if isinstance(operand, Constant):
            value = np.asarray(operand.value)
            if value.dtype.kind not in "iub" or not value.size:
                return None
            return int(value.min()), int(value.max())
        return self._bounds_of_slot(operand.index)

    def _bounds_of_slot(self, index: int) -> Bounds | None:
        if index not in self._bounds:
            self._bounds[index] = self._worked_out_bounds(index)
        return self._bounds[index]

    def _worked_out_bounds(self, index: int) -> Bounds | None:
        if index < len(self._arguments):
            return self._arguments[index].bounds
        operation = self._function.by_slot[index]
        if operation.dtype.kind not in "iub":
            return None
        name = operation.name
        if name in ("dynamic_slice", "gather"):
            return self.of(operation.operands[0])
        if operation.dtype.kind == "b":
            return self.truths(operation)
        of = [self.of(x) for x in operation.operands]
        if name == "select_n":
            which, *of = of
            if which is not None and which[0] == which[1]:
                # Such as the correction by 1 of a `//` that rounds a positive number.
                of = [of[which[0]]]
        known = [x for x in of if x is not None]
        if len(known) != len(of):
            return None
        found = of_operation(name, known)
        if found is None:
            return None
        # What may leave the dtype wraps around, and may be anything.
        info = np.iinfo(operation.dtype)
        return found if info.min <= found[0] and found[1] <= info.max else None

    def truths(self, operation: Operation) -> Bounds:
        """What a Boolean may be, False as 0 and True as 1."""
        name = operation.name
        of = [self.of(x) for x in operation.operands]
        answer: bool | None = None
        if name in COMPARISONS:
            answer = decided(name, of)
        elif name == "and" and self._is_rounded_already(operation):
            answer = False
        elif name in ("and", "or"):
            # One that is False decides an `and`, one that is True an `or`.
            decides = int(name == "or")
            if any(x == (decides, decides) for x in of):
                answer = bool(decides)
            elif all(x == (1 - decides, 1 - decides) for x in of):
                answer = not decides
        elif name == "not" and of[0] is not None and of[0][0] == of[0][1]:
            answer = not of[0][0]
        return (0, 1) if answer is None else (int(answer), int(answer))

    def _is_rounded_already(self, operation: Operation) -> bool:
        """Whether it is what JAX's `//` asks to round down: of what is not negative, never true.

        That is `(sign(x) != 1) & (rem(x, n) != 0)`, and the rest of 0 is 0.
        """
        asked = [self._differs_from(x) for x in operation.operands]
        found = {each[0].name: each for each in asked if each is not None}
        if set(found) != {"sign", "rem"}:
            return False
        sign, one = found["sign"]
        rest, zero = found["rem"]
        bounds = self.of(sign.operands[0])
        same = sign.operands[0] == rest.operands[0]
        not_negative = bounds is not None and bounds[0] >= 0
        return same and not_negative and (one, zero) == (1, 0)

    def _differs_from(self, operand: Operand) -> tuple[Operation, float] | None:
        """`(operation, number)` where an operand is `operation != number`."""
        by_slot = self._function.by_slot
        if not isinstance(operand, Slot) or operand.index not in by_slot:
            return None
        compare = by_slot[operand.index]
        if compare.name != "ne":
            return None
        of, number = compare.operands
        if not isinstance(of, Slot) or of.index not in by_slot:
            return None
        if not isinstance(number, Constant) or number.number is None:
            return None
        return by_slot[of.index], number.number


def decided(op: str, bounds: Sequence[Bounds | None]) -> bool | None:
    """The answer of a comparison that is the same for all numbers within bounds."""
    a, b = bounds
    if a is None or b is None:
        return None
    less, not_less = a[1] < b[0], a[0] >= b[1]
    greater, not_greater = a[0] > b[1], a[1] <= b[0]
    always: Mapping[str, tuple[bool, bool]] = {
        "lt": (less, not_less),
        "ge": (not_less, less),
        "gt": (greater, not_greater),
        "le": (not_greater, greater),
        "eq": (a == b and a[0] == a[1], less or greater),
        "ne": (less or greater, a == b and a[0] == a[1]),
    }
    true, false = always[op]
    return True if true else False if false else None


def of_operation(name: str, of: Sequence[Bounds]) -> Bounds | None:
    """Bounds of what an operation makes of whole numbers within bounds."""
    if name in ALIASES or name in ("convert_element_type", "concatenate", "select_n"):
        return min(x[0] for x in of), max(x[1] for x in of)
    if name == "neg":
        ((low, high),) = of
        return -high, -low
    if name == "abs":
        ((low, high),) = of
        least = 0 if low <= 0 <= high else min(abs(low), abs(high))
        return least, max(abs(low), abs(high))
    if name == "sign":
        ((low, high),) = of
        return int(np.sign(low)), int(np.sign(high))
    if name == "clamp":
        below, x, above = of
        return min(max(below[0], x[0]), above[0]), min(max(below[1], x[1]), above[1])
    if len(of) != 2:
        return None
    (a, b), (c, d) = of
    if name in ("add", "add_any"):
        return a + c, b + d
    if name == "sub":
        return a - d, b - c
    if name == "mul":
        corners = (a * c, a * d, b * c, b * d)
        return min(corners), max(corners)
    if name == "max":
        return max(a, c), max(b, d)
    if name == "min":
        return min(a, c), min(b, d)
    if name == "div" and c >= 1:
        corners = [int(x / y) for x in (a, b) for y in (c, d)]
        return min(corners), max(corners)
    if name == "rem" and c >= 1:
        return (0 if a >= 0 else 1 - d), (0 if b <= 0 else d - 1)
    return None


__all__ = ["ALIASES", "BoundsOf", "COMPARISONS", "decided", "of_operation"]
