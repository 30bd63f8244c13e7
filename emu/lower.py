"""A scalar function as a straight line of operations, for a machine to carry out on whole tiles.

A researcher writes arithmetic for one score; a machine does it for a tile of them. What stands
between is which of the function's values differ within a tile: of `s - slope[h] * (q - k)` on a
tile of queries and keys

    value              varies along     a machine needs
    q - k              q, k             a tile
    slope[h]           nothing          one number
    slope[h] * (q - k) q, k             a tile
    s - ...            q, k             a tile, for every score anew

So each value carries the axes along which it varies. How a machine carries out an operation on
tiles, columns and numbers is in that machine's own `lower`.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from emu.annotations import DType
from emu.errors import EmulationError
from emu.tracing import jaxpr as jaxprs
from emu.tracing.scalar import CannotTrace, defined_at, traced

Axes: TypeAlias = frozenset[str]
"""Names of the axes along which a value varies."""


class CannotLower(EmulationError):
    """A function of a user's that no machine's instructions can carry out; says the line."""


@dataclasses.dataclass(frozen=True)
class Input:
    """An argument of the function.

    Attributes:
      name: of the argument.
      axes: along which it varies.
      dtype: of one value.
    """

    name: str
    axes: Axes
    dtype: DType


@dataclasses.dataclass(frozen=True)
class Slot:
    """A value that depends on the arguments, by its number: arguments first, then results."""

    index: int


@dataclasses.dataclass(frozen=True, eq=False)
class Constant:
    """A number or an array that the function holds: NumPy's, JAX's, or traced by JAX."""

    value: Any

    @property
    def number(self) -> float | None:
        """As one Python number; None for an array, and for what JAX traces."""
        if isinstance(self.value, Tracer) or np.ndim(self.value):
            return None
        return np.asarray(self.value).item()


Operand: TypeAlias = Slot | Constant


@dataclasses.dataclass(frozen=True, eq=False)
class Operation:
    """One primitive of JAX, on values that depend on the arguments.

    Attributes:
      name: of the primitive, or of the function called where that stays whole.
      operands: what it reads.
      equation: of the jaxpr, with its parameters.
      shape: of one result; `()` but inside look-ups.
      dtype: of the result.
      axes: along which the result varies.
      result: number of its slot.
      line: `file.py:line` that wrote it.
    """

    name: str
    operands: tuple[Operand, ...]
    equation: jaxprs.Equation
    shape: tuple[int, ...]
    dtype: np.dtype
    axes: Axes
    result: int
    line: str


@dataclasses.dataclass(frozen=True, eq=False)
class Elementwise:
    """A scalar function, read.

    Attributes:
      name: of the function.
      inputs: its arguments.
      operations: in order; calls are inlined, what depends on no argument is a constant, and what
        nobody reads is left out.
      result: what it gives.
    """

    name: str
    inputs: tuple[Input, ...]
    operations: tuple[Operation, ...]
    result: Operand

    @functools.cached_property
    def by_slot(self) -> dict[int, Operation]:
        """The operation that gives each slot that is no input."""
        return {operation.result: operation for operation in self.operations}

    def axes_of(self, operand: Operand) -> Axes:
        """Axes along which an operand varies."""
        if isinstance(operand, Constant):
            return frozenset()
        if operand.index < len(self.inputs):
            return self.inputs[operand.index].axes
        return self.by_slot[operand.index].axes

    def dtype_of(self, operand: Operand) -> np.dtype:
        """Dtype of one value of an operand."""
        if isinstance(operand, Constant):
            return np.dtype(operand.value.dtype)
        if operand.index < len(self.inputs):
            return np.dtype(self.inputs[operand.index].dtype)
        return self.by_slot[operand.index].dtype

    def depends_on(self, operand: Operand, name: str) -> bool:
        """Whether an operand depends on the argument of this name."""
        if isinstance(operand, Constant):
            return False
        return operand.index in self._dependents[name]

    @functools.cached_property
    def _dependents(self) -> dict[str, set[int]]:
        found: dict[str, set[int]] = {}
        for place, argument in enumerate(self.inputs):
            slots = {place}
            for operation in self.operations:
                if any(
                    isinstance(x, Slot) and x.index in slots for x in operation.operands
                ):
                    slots.add(operation.result)
            found[argument.name] = slots
        return found

    def uses(self, operand: Operand) -> int:
        """How often an operand is read by what is kept."""
        count = int(self.result == operand)
        for operation in self.operations:
            count += operation.operands.count(operand)
        return count

    def evaluate(
        self, operand: Operand, arguments: Mapping[str, Any], *, finite: bool = False
    ) -> jax.Array:
        """An operand's value for one value of each argument that it depends on; traceable.

        Args:
          operand: of this function.
          arguments: scalars by name.
          finite: 1 stands for whatever an operation gives that is no finite number.
        """
        known: dict[int, jax.Array] = {}
        for place, argument in enumerate(self.inputs):
            if argument.name in arguments:
                value = arguments[argument.name]
                known[place] = jnp.asarray(value, argument.dtype)

        def value_of(wanted: Operand) -> jax.Array:
            if isinstance(wanted, Constant):
                return jnp.asarray(wanted.value)
            if wanted.index not in known:
                operation = self.by_slot[wanted.index]
                operands = [value_of(x) for x in operation.operands]
                eqn = operation.equation
                given = eqn.primitive.bind(*operands, **eqn.params)
                (found,) = given if eqn.primitive.multiple_results else [given]
                if finite and jnp.issubdtype(found.dtype, jnp.floating):
                    found = jnp.where(jnp.isfinite(found), found, jnp.ones_like(found))
                known[wanted.index] = found
            return known[wanted.index]

        return value_of(operand)

    def over(
        self, operand: Operand, along: Mapping[str, Any], *, finite: bool = False
    ) -> jax.Array:
        """An operand for many values of its arguments: an axis for each in `along`, in that order.

        Args:
          operand: of this function.
          along: argument to its values, `[n]`.
          finite: as for `evaluate`.

        Returns:
          `[n of the first, n of the second, ...]`; an axis on which nothing depends holds repeats.
        """
        names = list(along)

        def one(*values: Any) -> jax.Array:
            arguments = dict(zip(names, values, strict=True))
            return self.evaluate(operand, arguments, finite=finite)

        function: Callable[..., jax.Array] = one
        for place in reversed(range(len(names))):
            of_axis: list[int | None] = [None] * len(names)
            of_axis[place] = 0
            function = jax.vmap(
                function, in_axes=tuple(of_axis), axis_size=len(along[names[place]])
            )
        # Integers are the same however they are compiled, and as one they are in a tenth of the
        # time; floats could be rounded otherwise than one operation after another rounds them.
        if all(self._is_whole(x) for x in self.operations):
            function = jax.jit(function)
        return function(*(jnp.asarray(values) for values in along.values()))

    def _is_whole(self, operation: Operation) -> bool:
        """Whether an operation is on integers or Booleans and makes such."""
        slots: list[Operand] = [*operation.operands, Slot(operation.result)]
        return all(np.dtype(self.dtype_of(x)).kind in "biu" for x in slots)


def read(
    function: Callable[..., Any],
    inputs: Sequence[Input],
    what: str,
    whole: Collection[str] = (),
) -> Elementwise:
    """Reads a scalar function.

    Args:
      function: of one scalar for each of `inputs`, by position.
      inputs: its arguments.
      what: names the function in errors: `score of alibi`.
      whole: names of called functions, such as `floor_divide`, that stay one operation each where
        they work on integers; JAX spells it out in half a dozen others.

    Raises:
      CannotLower: JAX cannot trace it, or it gives anything but one scalar.
    """
    avals = [jax.ShapeDtypeStruct((), x.dtype) for x in inputs]
    try:
        body = traced(function, avals)
    except CannotTrace as error:
        raise CannotLower(f"{what}: {error.what}", error.line) from None
    if len(body.outvars) != 1 or body.outvars[0].aval.shape:
        shapes = [tuple(x.aval.shape) for x in body.outvars]
        raise CannotLower(
            f"{what}: gives values of shapes {shapes}, must give one scalar; it is called for one "
            "query and one key at a time",
            defined_at(function),
        )
    reader = _Reader(what, tuple(inputs), whole)
    arguments: list[Operand] = [Slot(place) for place in range(len(inputs))]
    (result,) = reader.inline(body, arguments)
    return Elementwise(what, tuple(inputs), reader.read_by(result), result)


def composed(outer: Elementwise, argument: str, inner: Elementwise) -> Elementwise:
    """A function of another's result: `outer` with `inner` in place of an argument.

    Args:
      outer, inner: of the same arguments.
      argument: of `outer`, by name.
    """
    arguments = len(outer.inputs)
    place = [x.name for x in outer.inputs].index(argument)
    # Slots of the outer operations stand behind those of the inner.
    behind = max((x.result for x in inner.operations), default=arguments - 1) + 1

    def moved(operand: Operand) -> Operand:
        if isinstance(operand, Constant):
            return operand
        if operand.index == place:
            return inner.result
        if operand.index < arguments:
            return operand
        return Slot(operand.index - arguments + behind)

    operations = list(inner.operations)
    for operation in outer.operations:
        operations.append(
            dataclasses.replace(
                operation,
                operands=tuple(map(moved, operation.operands)),
                result=operation.result - arguments + behind,
            )
        )
    result = moved(outer.result)
    kept = _read_by(result, operations)
    return Elementwise(outer.name, outer.inputs, kept, result)


class _Reader:
    """Inlines calls, folds constants and follows axes."""

    def __init__(self, what: str, inputs: tuple[Input, ...], whole: Collection[str]):
        self._what = what
        self._whole = whole
        self._axes: list[Axes] = [x.axes for x in inputs]
        self._operations: list[Operation] = []
        self._calls: list[jaxprs.Equation] = []  # equations that are being inlined

    def inline(self, body: jaxprs.Body, arguments: Sequence[Operand]) -> list[Operand]:
        """The results of a body."""
        known: dict[int, Operand] = {}

        def read_atom(atom: Any) -> Operand:
            if jaxprs.is_literal(atom):
                return Constant(np.asarray(atom.val, atom.aval.dtype))
            return known[id(atom)]

        for variable, constant in zip(body.constvars, body.consts, strict=True):
            known[id(variable)] = Constant(constant)
        for variable, argument in zip(body.invars, arguments, strict=True):
            known[id(variable)] = argument
        for eqn in body.eqns:
            operands = [read_atom(atom) for atom in eqn.invars]
            results = self._results(eqn, operands)
            for variable, result in zip(eqn.outvars, results, strict=True):
                known[id(variable)] = result
        return [read_atom(atom) for atom in body.outvars]

    def _results(
        self, eqn: jaxprs.Equation, operands: Sequence[Operand]
    ) -> Sequence[Operand]:
        slots = [x for x in operands if isinstance(x, Slot)]
        if not slots:
            return self._folded(eqn, operands)
        called = jaxprs.call(eqn)
        if called is not None and not self._stays_whole(eqn):
            # An operation inside may have no line of the user's own; that of the call is told then.
            self._calls.append(eqn)
            results = self.inline(called, operands)
            self._calls.pop()
            return results
        line = self._line(eqn)
        if len(eqn.outvars) != 1:
            raise CannotLower(
                f"{self._what}: {eqn.primitive.name} gives {len(eqn.outvars)} values; use "
                "elementwise arithmetic, comparisons, `jnp.where` and look-ups in tables",
                line,
            )
        axes: Axes = frozenset()
        for slot in slots:
            axes |= self._axes[slot.index]
        result = eqn.outvars[0].aval
        index = len(self._axes)
        self._axes.append(axes)
        is_call = called is not None
        operation = Operation(
            name=eqn.params["name"] if is_call else eqn.primitive.name,
            operands=tuple(operands),
            equation=eqn,
            shape=tuple(result.shape),
            dtype=np.dtype(result.dtype),
            axes=axes,
            result=index,
            line=line,
        )
        self._operations.append(operation)
        return [Slot(index)]

    def _stays_whole(self, eqn: jaxprs.Equation) -> bool:
        if eqn.params.get("name") not in self._whole:
            return False
        atoms = (*eqn.invars, *eqn.outvars)
        return all(jnp.issubdtype(atom.aval.dtype, jnp.integer) for atom in atoms)

    def _folded(
        self, eqn: jaxprs.Equation, operands: Sequence[Operand]
    ) -> Sequence[Operand]:
        constants = [x.value for x in operands if isinstance(x, Constant)]
        if any(isinstance(x, Tracer) for x in constants):
            results = eqn.primitive.bind(*constants, **eqn.params)
        else:
            # A function may be read while a kernel is traced; without this JAX would write the
            # constants' arithmetic into that kernel instead of doing it.
            with jax.ensure_compile_time_eval():
                arrays = [jnp.asarray(x) for x in constants]
                results = eqn.primitive.bind(*arrays, **eqn.params)
        if not eqn.primitive.multiple_results:
            results = [results]
        return [Constant(result) for result in results]

    def _line(self, eqn: jaxprs.Equation) -> str:
        lines = [jaxprs.location(x) for x in (eqn, *reversed(self._calls))]
        known = [line for line in lines if line != "unknown line"]
        return known[0] if known else "unknown line"

    def read_by(self, result: Operand) -> tuple[Operation, ...]:
        """The operations on which the result depends, in order."""
        return _read_by(result, self._operations)


def _read_by(result: Operand, operations: Sequence[Operation]) -> tuple[Operation, ...]:
    """Those operations on which a result depends, in order."""
    wanted = {result}
    kept = []
    # Backwards, every reader of a result is met before the operation that gives it.
    for operation in reversed(operations):
        if Slot(operation.result) in wanted:
            kept.append(operation)
            wanted.update(operation.operands)
    return tuple(reversed(kept))


__all__ = [
    "Axes",
    "CannotLower",
    "Constant",
    "Elementwise",
    "Input",
    "Operand",
    "Operation",
    "Slot",
    "composed",
    "read",
]
