"""Reads a mask's jaxpr once, then answers it on positions or on whole boxes of positions."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from emu.errors import EmulationError
from emu.tracing import jaxpr as jaxprs
from kernels.masks import strided
from kernels.masks.catalogue import Mask
from kernels.masks.catalogue import name as name_of
from kernels.masks.jax_division import known_division
from kernels.masks.lookup import Table
from kernels.masks.mask_rules import RULES, Rule, Site
from kernels.masks.strided import Strided

_REMEDY = (
    "write the mask with + - * // % comparisons & | ~ jnp.where jnp.minimum jnp.maximum jnp.abs "
    "and sums over constants, or look positions up in a constant table"
)


class UnreadableMask(EmulationError):
    """A mask that cannot be decided on whole tiles: an unknown operation, or one per head."""


_HEADS = object()  # stands for b and h: whatever is computed from them is this again


@dataclasses.dataclass(frozen=True)
class _Slot:
    """A value that depends on q or k; `shape` is the jaxpr's."""

    index: int
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class _Step:
    """One equation; each operand is a `_Slot`, a `Table` or a constant array."""

    rule: Rule
    site: Site
    operands: tuple[Any, ...]
    result: int

    def lift(self, operand: _Slot) -> int:
        """Axes to append so that a scalar meets operands of the result's rank."""
        return 0 if operand.shape or not self.rule.aligned else len(self.site.shape)


class TracedMask:
    """A mask as a straight line of steps; calls inlined, constants folded.

    Args:
      mask: `mask(b, h, q, k) -> bool` of int32 scalars.

    Raises:
      UnreadableMask: an operation without a rule, a mask that differs between heads or batches, or
        one that returns anything but one Boolean.
    """

    def __init__(self, mask: Mask):
        self._name = name_of(mask)
        body = jaxprs.body(
            jax.make_jaxpr(mask)(*[jax.ShapeDtypeStruct((), jnp.int32)] * 4)
        )
        found = [v.aval for v in body.outvars]
        if len(found) != 1 or found[0].shape or found[0].dtype != bool:
            what = ", ".join(f"{a.dtype}{list(a.shape)}" for a in found)
            raise UnreadableMask(f"mask {self._name}: returns {what}, not one bool")
        self._steps: list[_Step] = []
        self._calls: list[Any] = []  # equations that are being inlined
        (self._result,) = self._inline(
            body, [_HEADS, _HEADS, _Slot(0, ()), _Slot(1, ())]
        )
        if self._result is _HEADS:
            raise UnreadableMask(
                f"mask {self._name}: depends on b or h, but all heads share their tiles; "
                "give each group of heads a mask of q and k alone"
            )
        self._drop_unread()

    @functools.cached_property
    def relative(self) -> bool:
        """Whether it reads positions only to subtract or compare one with the other.

        Then, short of an int32 overflow, only `q - k` matters.
        """
        direct = [
            (
                step,
                [
                    x.index
                    for x in step.operands
                    if isinstance(x, _Slot) and x.index < 2
                ],
            )
            for step in self._steps
        ]
        return not isinstance(self._result, _Slot) or all(
            sorted(read) in ([], [0, 1]) and (not read or step.rule in _OF_DIFFERENCES)
            for step, read in direct
        )

    def points(self, q: Any, k: Any) -> np.ndarray:
        """Whether q attends to k, bool; integer arrays that broadcast against each other."""
        shape = np.broadcast_shapes(np.shape(q), np.shape(k))
        inputs = []
        for x in (np.asarray(q, np.int32), np.asarray(k, np.int32)):
            inputs.append(x.reshape((1,) * (len(shape) - x.ndim) + x.shape))

        def lift(x: Any, axes: int) -> np.ndarray:
            return np.asarray(x).reshape((*np.shape(x), *[1] * axes))

        answer = self._evaluate(inputs, lambda step: step.rule.points, np.asarray, lift)
        return np.broadcast_to(answer, shape)

    def boxes(self, q: Strided, k: Strided) -> Strided:
        """Whether every q of each box attends to every k (`lo`), and whether any may (`hi`).

        Args:
          q, k: sets of positions, `[n]`.

        Returns:
          Booleans `[n]`. Without `hi` no pair of the box is allowed and with `lo` all are; in
          between nothing is known.
        """

        def lift(x: Strided, axes: int) -> Strided:
            fields = (np.asarray(f) for f in x)
            return Strided(
                *(f.reshape((*f.shape, *[1] * axes)) if f.ndim else f for f in fields)
            )

        answer = self._evaluate(
            [q, k], lambda step: step.rule.boxes, strided.exactly, lift
        )
        shape = np.broadcast_shapes(np.shape(q.lo), np.shape(k.lo))
        return Strided(*(np.broadcast_to(x, shape) for x in answer))

    def _evaluate(
        self, inputs: list[Any], reading: Callable, known: Callable, lift: Callable
    ):
        """Runs the steps in one of the two readings; constants enter through `known`."""
        values: dict[int, Any] = dict(enumerate(inputs))

        def read(operand: Any, axes: int) -> Any:
            if isinstance(operand, _Slot):
                return (
                    lift(values[operand.index], axes) if axes else values[operand.index]
                )
            return operand if isinstance(operand, Table) else known(operand)

        with np.errstate(all="ignore"):  # int32 wraps on purpose
            for step in self._steps:
                axes = [
                    step.lift(x) if isinstance(x, _Slot) else 0 for x in step.operands
                ]
                operands = map(read, step.operands, axes)
                values[step.result] = reading(step)(step.site, *operands)
            return read(self._result, 0)

    def _inline(self, body: jaxprs.Body, arguments: list[Any]) -> list[Any]:
        """Appends a body's steps; returns its results as slots, constants or `_HEADS`."""
        known = {
            id(v): np.asarray(c)
            for v, c in zip(body.constvars, body.consts, strict=True)
        }
        known |= {id(v): x for v, x in zip(body.invars, arguments, strict=True)}

        def read(atom: Any) -> Any:
            if jaxprs.is_literal(atom):
                return np.asarray(atom.val, atom.aval.dtype)
            return known[id(atom)]

        for eqn in body.eqns:
            results = self._results(eqn, [read(v) for v in eqn.invars])
            known |= {id(v): x for v, x in zip(eqn.outvars, results, strict=True)}
        return [read(v) for v in body.outvars]

    def _results(self, eqn: Any, operands: list[Any]) -> list[Any]:
        inner = jaxprs.call(eqn)
        named = eqn.primitive.name if inner is None else _division(inner, operands)
        if inner is not None and named is None:
            self._calls.append(eqn)
            results = self._inline(inner, operands)
            self._calls.pop()
            return results
        if any(x is _HEADS for x in operands):
            return [_HEADS] * len(eqn.outvars)
        if not any(isinstance(x, _Slot) for x in operands):
            return _fold(eqn, operands)
        rule = RULES.get(str(named))
        for v in (*eqn.invars, *eqn.outvars):
            if v.aval.dtype != bool and str(v.aval.dtype) not in _INTEGERS:
                self._refuse(
                    eqn, f"{named} of {v.aval.dtype}; masks compute on int32 and bool"
                )
        if rule is None or len(eqn.outvars) != 1:
            self._refuse(eqn, f"no rule for {named}; {_REMEDY}")
        if named in ("dynamic_slice", "gather"):
            operands = self._look_up(eqn, operands)
        return [self._append(rule, eqn, operands)]

    def _append(self, rule: Rule, eqn: Any, operands: list[Any]) -> _Slot:
        aval = eqn.outvars[0].aval
        shapes = tuple(tuple(v.aval.shape) for v in eqn.invars)
        site = Site(eqn.params, np.dtype(aval.dtype), tuple(aval.shape), shapes)
        result = len(self._steps) + 2
        self._steps.append(_Step(rule, site, tuple(operands), result))
        return _Slot(result, site.shape)

    def _look_up(self, eqn: Any, operands: list[Any]) -> list[Any]:
        """A `Table` and the indices of the one entry that is taken from it."""
        table: Any = operands[0]
        indices = operands[1:]
        sizes = eqn.params["slice_sizes"]
        if isinstance(table, _Slot) or set(sizes) - {1} or not sizes:
            self._refuse(eqn, f"{eqn.primitive.name} of more than one entry; {_REMEDY}")
        if eqn.primitive.name == "dynamic_slice":
            return [Table(table, None, apart=True), *indices]
        numbers = eqn.params["dimension_numbers"]
        rank = len(sizes)
        each = tuple(range(rank))
        plain = (numbers.collapsed_slice_dims, numbers.start_index_map) == (each, each)
        if not plain or eqn.invars[1].aval.shape != (rank,):
            self._refuse(eqn, f"gather of more than one entry; {_REMEDY}")
        filled = "FILL" in str(eqn.params["mode"])
        return [
            Table(table, eqn.params["fill_value"] if filled else None, apart=False),
            *indices,
        ]

    def _refuse(self, eqn: Any, what: str) -> NoReturn:
        lines = [jaxprs.location(e) for e in (eqn, *reversed(self._calls))]
        known = [line for line in lines if line != "unknown line"]
        raise UnreadableMask(
            f"mask {self._name}: {what}", known[0] if known else lines[0]
        )

    def _drop_unread(self) -> None:
        read, kept = {getattr(self._result, "index", None)}, []
        for step in reversed(self._steps):
            if step.result in read:
                kept.append(step)
                read |= {x.index for x in step.operands if isinstance(x, _Slot)}
        self._steps = kept[::-1]


_OF_DIFFERENCES = [RULES[name] for name in ("sub", "lt", "le", "gt", "ge", "eq", "ne")]
_INTEGERS = {"int8", "int16", "int32", "uint8", "uint16"}


def _division(body: jaxprs.Body, operands: list[Any]) -> str | None:
    """`floor_divide` or `remainder` if a called body is JAX's, by known positive numbers."""
    if len(operands) != 2 or not isinstance(operands[0], _Slot):
        return None
    known = isinstance(operands[1], np.ndarray) and bool((operands[1] >= 1).all())
    return known_division(body) if known else None


def _fold(eqn: Any, operands: list[Any]) -> list[Any]:
    """An equation of constants, computed by JAX."""
    with jax.ensure_compile_time_eval():
        results = eqn.primitive.bind(*(jnp.asarray(x) for x in operands), **eqn.params)
    return [
        np.asarray(x)
        for x in (results if eqn.primitive.multiple_results else [results])
    ]
