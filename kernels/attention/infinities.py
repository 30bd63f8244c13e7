"""Where a score is -inf, as a mask of its own, and what the score is elsewhere.

Of `where(k <= q, s, -inf) - slope * (q - k)` a machine should compute `s - slope * (q - k)`, and
that only on tiles where `k <= q` somewhere. So every value of the function is taken apart:

    value                     is -inf where   elsewhere it is
    where(k <= q, s, -inf)    not k <= q      s
    slope * (q - k)           nowhere         itself
    their difference          not k <= q      s - slope * (q - k)

Infinities come from constants, from entries of captured tables and from logarithms of zeros; that
arithmetic on finite numbers overflows is not foreseen. Where a pair is not attended the last
column may hold anything.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from emu.lower import CannotLower, Constant, Elementwise, Operand, Operation, Slot
from kernels.attention.dependence import refuse_dependence
from kernels.attention.rewriting import ALWAYS, NEVER, Rewriting

_LAST = "make it -inf last, as in `jnp.where(attended, score, -jnp.inf)`"

# The same elements in another arrangement: an entry is infinite where it was before.
_REARRANGES = {
    "broadcast_in_dim",
    "copy",
    "copy_p",
    "dynamic_slice",
    "expand_dims",
    "gather",
    "reshape",
    "slice",
    "squeeze",
    "stop_gradient",
}
_ROUNDS = {"convert_element_type", "reduce_precision"}
# Of an infinity they make a finite number.
_BOUNDED = {"erf", "logistic", "tanh"}
_OF_MINUS_INFINITY_ZERO = {"exp", "exp2"}


@dataclasses.dataclass(frozen=True)
class _Parts:
    """A value taken apart.

    Attributes:
      minus: where it is -inf, a Boolean.
      plus: where it is +inf.
      finite: what it is elsewhere; None if it is infinite everywhere.
    """

    minus: Operand
    plus: Operand
    finite: Operand | None

    @property
    def infinite(self) -> bool:
        """Whether it may be infinite."""
        return self.minus is not NEVER or self.plus is not NEVER


@dataclasses.dataclass(frozen=True)
class Halves:
    """A score taken apart.

    Attributes:
      attended: where it is not -inf, of `b`, `h`, `q` and `k`; None if everywhere.
      finite: what it is there.
    """

    attended: Elementwise | None
    finite: Elementwise


def take_apart(score: Elementwise) -> Halves:
    """Takes a score apart.

    Args:
      score: of the arguments `s`, `b`, `h`, `q` and `k`.

    Raises:
      CannotLower: whether it is -inf depends on `s`, or it is +inf somewhere, or an operation makes
        of an infinity what this file does not know.
    """
    return _Walk(score).halves()


class _Walk:
    """From the result of a score to what it needs, each operand once."""

    def __init__(self, score: Elementwise):
        self._score = score
        self._new = Rewriting(score)
        self._parts: dict[int, _Parts] = {}

    def halves(self) -> Halves:
        result = self._score.result
        parts = self._of(result)
        # An argument is never infinite, and a constant is so everywhere or nowhere.
        beside = None
        if isinstance(result, Slot):
            beside = self._score.by_slot.get(result.index)
        if parts.plus is not NEVER:
            where = "" if beside is None else beside.line
            raise CannotLower(
                f"{self._score.name}: gives +inf, of which a softmax makes nothing; give -inf "
                "where a key is not attended",
                where,
            )
        finite = parts.finite
        if finite is None:
            finite = Constant(np.zeros((), np.float32))
        attended = None
        if parts.minus is ALWAYS:
            attended = self._new.function(NEVER)
        elif parts.minus is not NEVER:
            assert beside is not None
            attended = self._new.function(self._new.negated(parts.minus, beside))
        return Halves(attended, self._new.function(finite))

    def _of(self, operand: Operand) -> _Parts:
        """The parts of an operand of the score."""
        if isinstance(operand, Constant):
            return _of_constant(operand)
        operation = self._score.by_slot.get(operand.index)
        if operation is None:  # an argument
            return _Parts(NEVER, NEVER, operand)
        if operand.index not in self._parts:
            self._parts[operand.index] = self._of_operation(operation)
        return self._parts[operand.index]

    def _of_operation(self, operation: Operation) -> _Parts:
        name = operation.name
        if not jnp.issubdtype(operation.dtype, jnp.floating):
            return self._as_it_was(operation)
        if name == "select_n":
            return self._select(operation)
        if name == "log":
            return self._log(operation)
        parts = [self._of(x) for x in operation.operands]
        if not any(x.infinite for x in parts):
            finite = self._again(operation, parts)
            return _Parts(NEVER, NEVER, finite)
        if name in _BOUNDED:
            return self._as_it_was(operation)
        if name in _OF_MINUS_INFINITY_ZERO and parts[0].plus is NEVER:
            return self._as_it_was(operation)
        if name in _REARRANGES:
            return self._rearranged(operation, parts)
        if name in _ROUNDS:
            (part,) = parts
            return _Parts(part.minus, part.plus, self._again(operation, parts))
        rule = _RULES.get(name)
        if rule is None:
            self._refuse(operation, f"{name} of what is infinite in places; {_LAST}")
        return rule(self, operation, *parts)

    def _as_it_was(self, operation: Operation) -> _Parts:
        return _Parts(NEVER, NEVER, self._new.copy(Slot(operation.result)))

    def _again(self, operation: Operation, parts: Sequence[_Parts]) -> Operand | None:
        """The operation on the finite halves; None where one has none."""
        operands = []
        for part in parts:
            if part.finite is None:
                return None
            operands.append(part.finite)
        if operation.name in ("add", "add_any", "sub"):
            left, right = operands
            if _is_zero(right):
                return left
            if _is_zero(left) and operation.name != "sub":
                return right
        return self._new.again(operation, operands)

    # --- how infinities pass through each kind of operation ---

    def _rearranged(self, operation: Operation, parts: Sequence[_Parts]) -> _Parts:
        """A look-up or the like: finds infinities where the whole has them."""
        whole = parts[0]
        indices = [self._new.copy(x) for x in operation.operands[1:]]
        if whole.finite is None:
            return whole
        finite = _everywhere(whole.finite, operation)
        if finite is None:
            finite = self._new.again(operation, [whole.finite, *indices])
        minus = self._looked_up(operation, whole.minus, indices)
        return _Parts(minus, self._looked_up(operation, whole.plus, indices), finite)

    def _looked_up(
        self, operation: Operation, mask: Operand, indices: Sequence[Operand]
    ) -> Operand:
        """The operation, a look-up in what is infinite, on where it is so."""
        if mask is NEVER or mask is ALWAYS:
            return mask
        # An index that is outside finds no infinity.
        fills = "fill_value" in operation.equation.params
        parameters = {"fill_value": False} if fills else {}
        return self._new.again(operation, [mask, *indices], bool, **parameters)

    def _select(self, operation: Operation) -> _Parts:
        which, *cases = operation.operands
        if isinstance(which, Constant) and which.number is not None:
            return self._of(cases[int(which.number)])
        parts = [self._of(x) for x in cases]
        condition = self._new.copy(which)
        infinite = [x for x in parts if x.infinite]
        if not infinite:
            finites = [x.finite for x in parts if x.finite is not None]
            finite = self._new.again(operation, [condition, *finites])
            return _Parts(NEVER, NEVER, finite)
        if len(parts) != 2 or self._dtype(which).kind != "b":
            self._refuse(operation, f"chooses among {len(parts)} cases; {_LAST}")
        no, yes = parts
        is_told = no.minus == yes.minus and no.plus == yes.plus
        if not is_told and self._score.depends_on(which, "s"):
            refuse_dependence(self._score, operation)
        minus, plus = (
            a if a == b else self._new.chosen(condition, a, b, operation)
            for a, b in ((no.minus, yes.minus), (no.plus, yes.plus))
        )
        return _Parts(minus, plus, self._chosen(operation, condition, no, yes))

    def _chosen(
        self, beside: Operation, which: Operand, no: _Parts, yes: _Parts
    ) -> Operand | None:
        """The finite half of a choice."""
        if no.finite is None or no.finite == yes.finite:
            return yes.finite
        if yes.finite is None:
            return no.finite
        operands = [which, no.finite, yes.finite]
        return self._new.made(jax.lax.select_n_p, operands, beside, beside.dtype)

    def _log(self, operation: Operation) -> _Parts:
        (operand,) = operation.operands
        part = self._of(operand)
        zero = self._zero(operand, operation)
        if part.minus is not NEVER:
            self._refuse(operation, f"log of what is -inf in places; {_LAST}")
        if zero is not NEVER and self._score.depends_on(operand, "s"):
            refuse_dependence(self._score, operation)
        finite = self._again(operation, [part])
        if zero is not NEVER and self._is_boolean(operand):
            # What is left of the logarithm of a Boolean where it is not of zero is that of one.
            finite = Constant(np.zeros((), operation.dtype))
        return _Parts(zero, part.plus, None if zero is ALWAYS else finite)

    def _zero(self, operand: Operand, beside: Operation) -> Operand:
        """Where a value is zero, as far as it is a Boolean, a whole number or a table's entry."""
        if isinstance(operand, Constant):
            if isinstance(operand.value, Tracer):
                return NEVER
            return _mask(np.asarray(operand.value) == 0)
        operation = self._score.by_slot.get(operand.index)
        if operation is None:
            return NEVER
        if operation.name in _REARRANGES:
            whole = self._zero(operation.operands[0], beside)
            if whole is NEVER or whole is ALWAYS:
                return whole
            indices = [self._new.copy(x) for x in operation.operands[1:]]
            return self._looked_up(operation, whole, indices)
        if operation.name == "convert_element_type":
            (before,) = operation.operands
            dtype = self._dtype(before)
            if dtype.kind == "b":
                return self._new.negated(self._new.copy(before), beside)
            if jnp.issubdtype(dtype, jnp.integer):
                zero = Constant(np.zeros((), dtype))
                operands = [self._new.copy(before), zero]
                return self._new.made(jax.lax.eq_p, operands, beside)
            return self._zero(before, beside)
        if operation.name == "select_n" and len(operation.operands) == 3:
            which, *cases = operation.operands
            no, yes = (self._zero(x, beside) for x in cases)
            if no is NEVER and yes is NEVER:
                return NEVER
            return self._new.chosen(self._new.copy(which), no, yes, beside)
        if operation.name == "mul":
            one, other = (self._zero(x, beside) for x in operation.operands)
            return self._new.either(one, other, beside)
        return NEVER

    def _add(self, operation: Operation, left: _Parts, right: _Parts) -> _Parts:
        new = self._new
        clash = (left.minus, right.plus), (left.plus, right.minus)
        if any(a is not NEVER and b is not NEVER for a, b in clash):
            self._refuse(operation, f"adds -inf to +inf, which is no number; {_LAST}")
        minus = new.either(left.minus, right.minus, operation)
        plus = new.either(left.plus, right.plus, operation)
        return _Parts(minus, plus, self._again(operation, [left, right]))

    def _sub(self, operation: Operation, left: _Parts, right: _Parts) -> _Parts:
        turned = _Parts(right.plus, right.minus, right.finite)
        return self._add(operation, left, turned)

    def _neg(self, operation: Operation, part: _Parts) -> _Parts:
        return _Parts(part.plus, part.minus, self._again(operation, [part]))

    def _mul(self, operation: Operation, left: _Parts, right: _Parts) -> _Parts:
        factor = operation.operands[0 if right.infinite else 1]
        return self._scaled(operation, left, right, factor)

    def _div(self, operation: Operation, left: _Parts, right: _Parts) -> _Parts:
        return self._scaled(operation, left, right, operation.operands[1])

    def _scaled(
        self, operation: Operation, left: _Parts, right: _Parts, factor: Operand
    ) -> _Parts:
        """An infinity times or by `factor`."""
        sign = 0 if left.infinite and right.infinite else self._sign(factor)
        if sign == 0 or (operation.name == "div" and right.infinite):
            self._refuse(
                operation,
                f"{operation.name} of what is infinite in places by what is not known to be "
                f"positive; {_LAST}",
            )
        part = left if left.infinite else right
        finite = self._again(operation, [left, right])
        if sign > 0:
            return _Parts(part.minus, part.plus, finite)
        return _Parts(part.plus, part.minus, finite)

    def _sign(self, operand: Operand) -> int:
        """1 or -1 where a value is sure to be of one sign and not zero, else 0."""
        if isinstance(operand, Constant):
            if isinstance(operand.value, Tracer):
                return 0
            values = np.asarray(operand.value)
            return int(np.all(values > 0)) - int(np.all(values < 0))
        operation = self._score.by_slot.get(operand.index)
        if operation is None:
            return 0
        name, operands = operation.name, operation.operands
        if name in _OF_MINUS_INFINITY_ZERO:
            return 1
        if name in _REARRANGES:
            return self._sign(operands[0])
        signs = [self._sign(x) for x in operands]
        if name == "neg":
            return -signs[0]
        if name in ("mul", "div"):
            return signs[0] * signs[1]
        if name == "convert_element_type":
            return signs[0]
        if name == "select_n":
            signs = signs[1:]
        if name in ("select_n", "add", "min", "max"):
            return signs[0] if len(set(signs)) == 1 else 0
        return 0

    def _max(self, operation: Operation, left: _Parts, right: _Parts) -> _Parts:
        minus = self._new.both(left.minus, right.minus, operation)
        plus = self._new.either(left.plus, right.plus, operation)
        finite = self._again(operation, [left, right])
        # Where one of them is -inf the other is the greater.
        if left.finite is None or right.finite is None:
            finite = right.finite if left.finite is None else left.finite
        else:
            finite = self._other_where(operation, right.minus, finite, left)
            finite = self._other_where(operation, left.minus, finite, right)
        return _Parts(minus, plus, finite)

    def _min(self, operation: Operation, left: _Parts, right: _Parts) -> _Parts:
        mirrored = [_Parts(x.plus, x.minus, x.finite) for x in (left, right)]
        found = self._max(operation, *mirrored)
        return _Parts(found.plus, found.minus, found.finite)

    def _other_where(
        self, beside: Operation, which: Operand, no: Operand | None, yes: _Parts
    ) -> Operand | None:
        if which is NEVER:
            return no
        return self._chosen(beside, which, _Parts(NEVER, NEVER, no), yes)

    # --- small questions ---

    def _dtype(self, operand: Operand) -> np.dtype:
        return self._score.dtype_of(operand)

    def _is_boolean(self, operand: Operand) -> bool:
        if not isinstance(operand, Slot):
            return False
        operation = self._score.by_slot.get(operand.index)
        if operation is None or operation.name != "convert_element_type":
            return False
        return self._dtype(operation.operands[0]).kind == "b"

    def _refuse(self, operation: Operation, what: str) -> NoReturn:
        raise CannotLower(f"{self._score.name}: {what}", operation.line)


_Rule = Callable[..., _Parts]

_RULES: dict[str, _Rule] = {
    "add": _Walk._add,
    "add_any": _Walk._add,
    "div": _Walk._div,
    "max": _Walk._max,
    "min": _Walk._min,
    "mul": _Walk._mul,
    "neg": _Walk._neg,
    "sub": _Walk._sub,
}


def _of_constant(constant: Constant) -> _Parts:
    value = constant.value
    # What JAX traces has no entries yet, and is taken to be finite.
    is_known = not isinstance(value, Tracer)
    if not is_known or not jnp.issubdtype(value.dtype, jnp.floating):
        return _Parts(NEVER, NEVER, constant)
    known = np.asarray(value)
    infinite = np.isinf(known)
    if not infinite.any():
        return _Parts(NEVER, NEVER, constant)
    finite = None
    if not infinite.all():
        finite = Constant(np.where(infinite, known.dtype.type(0), known))
    return _Parts(_mask(known == -np.inf), _mask(known == np.inf), finite)


def _everywhere(whole: Operand, operation: Operation) -> Constant | None:
    """What a look-up finds in a table of one number; None if there are more."""
    fills = operation.equation.params.get("fill_value") is not None
    if fills or not isinstance(whole, Constant) or isinstance(whole.value, Tracer):
        return None
    entries = np.asarray(whole.value)
    number = entries.flat[0]
    # A table of 0 and -inf is a mask, of which 0 is left.
    return (
        Constant(np.full(operation.shape, number))
        if np.all(entries == number)
        else None
    )


def _mask(entries: np.ndarray) -> Constant:
    if not entries.any():
        return NEVER
    return ALWAYS if entries.all() else Constant(entries)


def _is_zero(operand: Operand) -> bool:
    return isinstance(operand, Constant) and operand.number == 0


__all__ = ["Halves", "take_apart"]
