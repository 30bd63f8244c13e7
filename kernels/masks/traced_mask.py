"""Reads a mask's jaxpr once, then answers it on positions or on whole boxes of positions.

`(k <= q) & (q - k < 4)` becomes four steps: `le`, `sub`, `lt` and `and`. On the positions q = 9
and k = 5 they give True, 4, False and False. On the boxes q in 8..11 and k in 0..3 they give
*always*, 5..11, *never* and *never*: no pair of 16 is allowed, and none was looked at.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from emu import given
from emu.errors import EmulationError
from emu.tracing import jaxpr as jaxprs
from emu.tracing.scalar import CannotTrace, traced
from kernels.masks import catalogue, strided
from kernels.masks.catalogue import Mask
from kernels.masks.jax_division import known_division
from kernels.masks.lookup import Table
from kernels.masks.mask_rules import RULES, Rule, Site
from kernels.masks.strided import Strided

_REMEDY = (
    "write the mask with + - * // % comparisons & | ~ jnp.where jnp.minimum jnp.maximum jnp.abs "
    "and sums over constants, or look positions up in a constant table"
)

_DTYPES = {"bool", "int8", "int16", "int32", "uint8", "uint16"}
_LOOK_UPS = ("dynamic_slice", "gather")
# What these make of q and k they could make of q − k alone: `k <= q` is `q - k >= 0`.
_OF_DIFFERENCES = [RULES[name] for name in ("sub", "lt", "le", "gt", "ge", "eq", "ne")]


class UnreadableMask(EmulationError):
    """A mask that cannot be decided on whole tiles: an unknown operation, or one per head."""


@dataclasses.dataclass(frozen=True)
class _Slot:
    """A value that depends on q or k; `shape` is the jaxpr's."""

    index: int
    shape: tuple[int, ...]


class _Heads:
    """Stands for b and h: whatever is computed from them is this again."""


_HEADS = _Heads()
_Q = _Slot(0, ())
_K = _Slot(1, ())

_Operand: TypeAlias = _Slot | Table | np.ndarray
_Value: TypeAlias = _Slot | _Heads | np.ndarray

_Read = TypeVar("_Read", np.ndarray, Strided)


@dataclasses.dataclass(frozen=True)
class _Step:
    """One equation.

    Attributes:
      rule, site: what it does, and where.
      operands: what depends on q or k, a table to look up, or a constant.
      result: index of its slot.
    """

    rule: Rule
    site: Site
    operands: tuple[_Operand, ...]
    result: int

    def axes_to_append(self, operand: _Operand) -> int:
        """How many, so that a scalar meets operands of the result's rank."""
        is_scalar = isinstance(operand, _Slot) and not operand.shape
        # The batch is in front, so shapes are matched from behind: `q[n]` against a constant of 5
        # is `[n, 1]` against `[5]`; without the axis n would meet 5.
        if not (is_scalar and self.rule.aligned):
            return 0
        return len(self.site.shape)

    def reads(self) -> list[int]:
        """Indices of the slots that it reads."""
        return [x.index for x in self.operands if isinstance(x, _Slot)]


@dataclasses.dataclass(frozen=True)
class _Reading:
    """One of the two ways to run the steps: on arrays or on sets.

    Attributes:
      run: begins a run: `(step, operands)` to the step's result.
      constant: what a constant enters as.
      with_axes: a value with axes of one element behind its own.
    """

    run: Callable[[], Callable[[_Step, list[Any]], Any]]
    constant: Callable[[np.ndarray], Any]
    with_axes: Callable[[Any, int], Any]


def _traced(mask: Mask, name: str, index: jax.ShapeDtypeStruct) -> jaxprs.Body:
    """The mask's jaxpr; raises `UnreadableMask` with its own line where it cannot be traced."""
    try:
        return traced(mask, [index] * 4)
    except CannotTrace as error:
        raise UnreadableMask(f"mask {name}: {error.what} ({error.line})") from None


class TracedMask:
    """A mask as a straight line of steps; calls inlined, constants folded.

    Args:
      mask: `mask(b, h, q, k) -> bool` of int32 scalars.

    Raises:
      UnreadableMask: an operation without a rule, a mask that differs between heads or batches, or
        one that returns anything but one Boolean.
    """

    def __init__(self, mask: Mask):
        self._name = catalogue.name(mask)
        index = jax.ShapeDtypeStruct((), jnp.int32)
        body = _traced(mask, self._name, index)
        self._check_result(body)
        self._steps: list[_Step] = []
        self._calls: list[Any] = []  # equations that are being inlined
        (result,) = self._inline(body, [_HEADS, _HEADS, _Q, _K])
        if isinstance(result, _Heads):
            raise UnreadableMask(
                f"mask {self._name}: depends on b or h, but all heads share their tiles; "
                "give each group of heads a mask of q and k alone"
            )
        self._result = result
        self._drop_unread()

    @functools.cached_property
    def relative(self) -> bool:
        """Whether it reads positions only to subtract or compare one with the other.

        Then, short of an int32 overflow, only `q - k` matters.
        """
        # A mask that reads neither position is the same at every distance.
        if not isinstance(self._result, _Slot):
            return True
        positions = {_Q.index, _K.index}
        for step in self._steps:
            direct = [index for index in step.reads() if index in positions]
            if not direct:
                continue
            # `q - k` reads one of each; `q - 3` and `q * k` tell where in the sequence a query is.
            one_of_each = sorted(direct) == [_Q.index, _K.index]
            if not one_of_each or step.rule not in _OF_DIFFERENCES:
                return False
        return True

    def points(self, q: np.ndarray | int, k: np.ndarray | int) -> np.ndarray:
        """Whether q attends to k, bool; integer arrays that broadcast against each other."""
        shape = np.broadcast_shapes(np.shape(q), np.shape(k))
        inputs = [_of_rank(np.asarray(positions), len(shape)) for positions in (q, k)]
        answer = self._evaluate(_ON_POINTS, inputs)
        return np.broadcast_to(answer, shape)

    def boxes(self, q: Strided, k: Strided) -> Strided:
        """Whether every q of each box attends to every k (`lo`), and whether any may (`hi`).

        Args:
          q, k: sets of positions, `[n]`.

        Returns:
          Booleans `[n]`. Without `hi` no pair of the box is allowed and with `lo` all are; in
          between nothing is known.
        """
        shape = np.broadcast_shapes(np.shape(q.lo), np.shape(k.lo))
        answer = self._evaluate(_ON_BOXES, [q, k])
        fields = [np.broadcast_to(field, shape) for field in answer]
        return Strided(*fields)

    def _evaluate(self, reading: _Reading, inputs: Sequence[_Read]) -> _Read:
        """Runs the steps in one of the two readings."""
        values: dict[int, Any] = dict(enumerate(inputs))
        run = reading.run()

        def read(operand: _Operand, axes: int) -> Any:
            if isinstance(operand, Table):
                return operand
            if not isinstance(operand, _Slot):
                return reading.constant(operand)
            value = values[operand.index]
            return reading.with_axes(value, axes) if axes else value

        with np.errstate(all="ignore"):  # int32 wraps on purpose
            for step in self._steps:
                operands = []
                for operand in step.operands:
                    operands.append(read(operand, step.axes_to_append(operand)))
                values[step.result] = run(step, operands)
            return read(self._result, 0)

    # --- from the jaxpr to the steps ---

    def _check_result(self, body: jaxprs.Body) -> None:
        kinds = []
        for variable in body.outvars:
            result = variable.aval
            kinds.append(f"{result.dtype}{list(result.shape)}")
        if kinds != ["bool[]"]:
            what = ", ".join(kinds)
            raise UnreadableMask(f"mask {self._name}: returns {what}, not one bool")

    def _inline(self, body: jaxprs.Body, arguments: list[_Value]) -> list[_Value]:
        """Appends a body's steps; returns its results as slots, constants or `_HEADS`."""
        known: dict[int, _Value] = {}

        def bind(variables: Sequence[Any], values: Sequence[_Value]) -> None:
            for variable, value in zip(variables, values, strict=True):
                known[id(variable)] = value

        def read(atom: Any) -> _Value:
            if jaxprs.is_literal(atom):
                return np.asarray(atom.val, atom.aval.dtype)
            return known[id(atom)]

        bind(body.constvars, [np.asarray(constant) for constant in body.consts])
        bind(body.invars, arguments)
        for eqn in body.eqns:
            operands = [read(atom) for atom in eqn.invars]
            bind(eqn.outvars, self._results(eqn, operands))
        return [read(atom) for atom in body.outvars]

    def _results(self, eqn: Any, operands: list[_Value]) -> Sequence[_Value]:
        """The results of an equation, whose step is appended if q or k matters to it."""
        called = jaxprs.call(eqn)
        name = eqn.primitive.name
        if called is not None:
            division = _division(called, operands)
            if division is None:
                # An operation inside may have no line of the user's own; then that of the call is
                # reported.
                self._calls.append(eqn)
                results = self._inline(called, operands)
                self._calls.pop()
                return results
            name = division

        depending = []
        for operand in operands:
            if isinstance(operand, _Heads):
                return [_HEADS] * len(eqn.outvars)
            depending.append(operand)
        if not any(isinstance(operand, _Slot) for operand in depending):
            return _folded(self._name, eqn, depending)

        # Behind what is folded: constants may be of any dtype, positions and what is made of them
        # may not.
        self._check_dtypes(eqn, name)
        rule = RULES.get(name)
        if rule is None or len(eqn.outvars) != 1:
            self._refuse(eqn, f"no rule for {name}; {_REMEDY}")
        if name in _LOOK_UPS:
            depending = self._with_table(eqn, depending)
        return [self._append(rule, eqn, depending)]

    def _append(self, rule: Rule, eqn: Any, operands: list[_Operand]) -> _Slot:
        result = eqn.outvars[0].aval
        shape = tuple(result.shape)
        shapes = tuple(tuple(atom.aval.shape) for atom in eqn.invars)
        site = Site(eqn.params, np.dtype(result.dtype), shape, shapes)
        index = len(self._steps) + 2  # behind q and k
        step = _Step(rule, site, tuple(operands), index)
        self._steps.append(step)
        return _Slot(index, shape)

    def _with_table(self, eqn: Any, operands: list[_Operand]) -> list[_Operand]:
        """A `Table` and the indices of the one entry that is taken from it."""
        table, *indices = operands
        name = eqn.primitive.name
        sizes = eqn.params["slice_sizes"]
        one_entry = set(sizes) == {1}
        if not isinstance(table, np.ndarray) or not one_entry:
            self._refuse(eqn, f"{name} of more than one entry; {_REMEDY}")
        if name == "dynamic_slice":
            return [Table(table, None, apart=True), *indices]
        # `table[q, k]` is a gather of slices of one element, whose indices are stacked in one
        # operand, one for each axis and in the axes' order.
        numbers = eqn.params["dimension_numbers"]
        rank = len(sizes)
        every_axis = tuple(range(rank))
        collapsed = numbers.collapsed_slice_dims == every_axis
        in_order = numbers.start_index_map == every_axis
        one_index = eqn.invars[1].aval.shape == (rank,)
        if not (collapsed and in_order and one_index):
            self._refuse(eqn, f"gather of more than one entry; {_REMEDY}")
        fills = "FILL" in str(eqn.params["mode"])
        fill = eqn.params["fill_value"] if fills else None
        return [Table(table, fill, apart=False), *indices]

    def _check_dtypes(self, eqn: Any, name: str) -> None:
        for atom in (*eqn.invars, *eqn.outvars):
            element = str(atom.aval.dtype)
            if element not in _DTYPES:
                self._refuse(
                    eqn, f"{name} of {element}; masks compute on int32 and bool"
                )

    def _refuse(self, eqn: Any, what: str) -> NoReturn:
        lines = [jaxprs.location(call) for call in (eqn, *reversed(self._calls))]
        # JAX's own functions have no line of the user's; the call that led to them has.
        known = [line for line in lines if line != "unknown line"]
        line = known[0] if known else lines[0]
        raise UnreadableMask(f"mask {self._name}: {what}", line)

    def _drop_unread(self) -> None:
        """Leaves out what the mask computes and does not use; tracing keeps it."""
        read = {self._result.index} if isinstance(self._result, _Slot) else set()
        kept = []
        # Backwards, every reader of a result is met before the step that makes it.
        for step in reversed(self._steps):
            if step.result in read:
                kept.append(step)
                read.update(step.reads())
        self._steps = kept[::-1]


def _of_rank(positions: np.ndarray, rank: int) -> np.ndarray:
    """int32 positions, with axes of one element in front where they have fewer."""
    known = np.asarray(positions, np.int32)
    ones = (1,) * (rank - known.ndim)
    return known.reshape(ones + known.shape)


def _array_with_axes(values: np.ndarray, axes: int) -> np.ndarray:
    known = np.asarray(values)
    ones = (1,) * axes
    return known.reshape(known.shape + ones)


def _set_with_axes(sets: Strided, axes: int) -> Strided:
    fields = []
    for field in sets:
        one_for_all = np.ndim(field) == 0
        fields.append(field if one_for_all else _array_with_axes(field, axes))
    return Strided(*fields)


def _points(step: _Step, operands: list[Any]) -> np.ndarray:
    return step.rule.points(step.site, *operands)


class _InCases:
    """Runs steps on sets, in cases where one set would say too little, until they are a Boolean.

    In neighborhood attention on 64 striped ranks rank 1 has the columns x of an image 1, 65, 129 up
    to 449, whose squares have their centre at `max(x, 3)`: 3, 65, 129, ... One set of these takes
    any step, and so is near everything; {65, 129, ...} and {3} are near few.

    Attributes:
      splits: into cases so far. Each has an axis of two in front of all others, so that those of
        one value meet all of another's.
    """

    _MOST_SPLITS = 6

    def __init__(self) -> None:
        self.splits = 0

    def __call__(self, step: _Step, operands: list[Any]) -> Strided:
        rule, site = step.rule, step.site
        cases = None
        if rule.cases is not None and self.splits < self._MOST_SPLITS:
            cases = rule.cases(*operands)
        if cases is not None:
            result = self._side_by_side(cases, len(site.shape))
        else:
            result = rule.boxes(site, *operands)
        return self._joined(result, len(site.shape)) if self.splits else result

    def _side_by_side(self, cases: Sequence[Strided], rank: int) -> Strided:
        """One set for each case, along a new axis."""
        behind = (
            1 + rank + self.splits
        )  # the batch, the value's own and the splits before
        self.splits += 1
        fields = []
        for field in zip(*cases, strict=True):
            alike = np.broadcast_arrays(*field)
            missing = (1,) * (behind - alike[0].ndim)
            fields.append(np.stack([x.reshape(missing + x.shape) for x in alike]))
        return Strided(*fields)

    def _joined(self, result: Strided, rank: int) -> Strided:
        """A Boolean over all cases; a number as it is."""
        if result.lo.dtype != bool:
            return result
        cases = tuple(range(max(result.lo.ndim, result.hi.ndim) - rank - 1))
        if not cases:
            return result
        lo, hi = np.broadcast_arrays(result.lo, result.hi)
        every = np.logical_and.reduce(lo, axis=cases)
        some = np.logical_or.reduce(hi, axis=cases)
        return Strided(every, some, strided.ONE)


_ON_POINTS = _Reading(lambda: _points, np.asarray, _array_with_axes)
_ON_BOXES = _Reading(_InCases, strided.exactly, _set_with_axes)


def _division(body: jaxprs.Body, operands: Sequence[_Value]) -> str | None:
    """`floor_divide` or `remainder` if a called body is JAX's, by known positive numbers."""
    if len(operands) != 2:
        return None
    dividend, divisor = operands
    if not isinstance(dividend, _Slot) or not isinstance(divisor, np.ndarray):
        return None
    # The rule on sets divides by known positive numbers; by others the call is inlined, and read
    # step by step.
    return known_division(body) if (divisor >= 1).all() else None


def _folded(name: str, eqn: Any, operands: Sequence[_Operand]) -> list[np.ndarray]:
    """The results of an equation of constants, computed by JAX."""
    # A mask may be read while a kernel is traced; without this JAX would write the constants'
    # arithmetic into that kernel instead of doing it.
    with jax.ensure_compile_time_eval():
        constants = [jnp.asarray(operand) for operand in operands]
        results = eqn.primitive.bind(*constants, **eqn.params)
    if not eqn.primitive.multiple_results:
        results = [results]
    for result in results:
        # Such as a key of random numbers, of which NumPy has none.
        if not any(jnp.issubdtype(result.dtype, kind) for kind in given.REAL):
            raise UnreadableMask(
                f"mask {name}: {eqn.primitive.name} of {result.dtype}; masks compute on int32 and "
                f"bool ({jaxprs.location(eqn)})"
            )
    return [np.asarray(result) for result in results]
