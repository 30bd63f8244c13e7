"""Equations that cost nothing: arithmetic on known integers, and views of tiles."""

import numpy as np

from emu.checks import rules
from emu.clock.state import ClockState
from emu.clock.tiles import Value
from emu.errors import DataDependentBranch
from emu.tracing import integers
from emu.tracing import jaxpr as jx


def without_instruction(
    state: ClockState, eqn: jx.Equation, operands: list[Value]
) -> Value:
    """An equation that costs nothing: known integers, or a view."""
    name = eqn.primitive.name
    aval = eqn.outvars[0].aval
    setup = state.setup
    if name == "axis_index":
        return constant(aval, setup.core_index(eqn.params["axis_name"]))
    if name == "iota":
        return constant(aval, integers.iota(eqn.params, setup.rank))
    known = [operand.known for operand in operands if operand.known is not None]
    if operands and len(known) == len(operands):
        integer = integers.evaluate(name, eqn.params, known, setup.rank)
        # Without a rule, as for a cast to float, it is work and needs an instruction.
        if integer is not None:
            return constant(aval, integer)
    elif name in jx.VIEWS:
        # Operand 0 is the buffer, the others say where in it a dynamic slice begins.
        if any(address.known is None for address in operands[1:]):
            raise DataDependentBranch(
                f"{name}: the address depends on data; use a gather instruction",
                jx.location(eqn),
            )
        return operands[0].viewed(aval)
    # Arithmetic on indices, whose cure is to make its inputs known; on tiles it is an instruction.
    elif operands and all(_is_integer(operand) for operand in operands):
        raise DataDependentBranch(
            f"{name}: this integer depends on data, so the clock cannot follow it; give it the "
            "integers it depends on as emu.Known",
            jx.location(eqn),
        )
    raise rules.no_instruction(setup.device, eqn)


def _is_integer(value: Value) -> bool:
    return value.shape == () and value.dtype.kind in "iub"


def constant(aval: jx.Aval, known: np.ndarray | None) -> Value:
    """A known integer, `[*mesh, *shape]`, or an immediate of unknown value."""
    return Value(aval.shape, aval.dtype, "register", 0, known=known)


def literal(atom: jx.Atom, rank: int) -> Value:
    value = jx.literal_value(atom)
    known = None
    if value.dtype.kind in "iub":
        known = value[(None,) * rank]
    return constant(atom.aval, known)


__all__ = ["constant", "literal", "without_instruction"]
