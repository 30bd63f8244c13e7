"""Live bytes per memory space of one core, from the same jaxpr: peak use and `OutOfMemory`.

A buffer lives from the instruction that makes it to the last use of any tile in it. Tiles written
in place and views share their buffer. A tile declared in a loop is a ring of as many buffers as it
asks for, which live as long as the loop whose body declares it: its iterations overlap.
In a partitioned space a tile takes its bytes per partition, in whole grains, on every partition.
"""

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from emu.datasheet import Device
from emu.errors import OutOfMemory
from emu.instruction import Instruction, lookup
from emu.tracing import jaxpr as jx

Peaks: TypeAlias = dict[str, int]
"""Memory space to its peak bytes."""


@dataclasses.dataclass(eq=False)
class Storage:
    """A buffer: where it is and how large. Each equals itself only: two may be of the same size."""

    space: str
    nbytes: int


Storages: TypeAlias = Sequence[Storage | None]
"""The buffer of each of several values; None for those in no memory, such as loop indices."""


@dataclasses.dataclass(frozen=True)
class Peak:
    """The most bytes of a space in use at once, and the kernel's line at which that is reached."""

    nbytes: int = 0
    line: str = ""


Inside: TypeAlias = dict[str, Peak]
"""Memory space to the peak of the buffers that live only inside a body or an equation."""

Results: TypeAlias = tuple[Storages, Inside]
"""Of a body or an equation: the buffers of its results, and its inside."""


def peaks(body: jx.Body, device: Device) -> Peaks:
    """Peak live bytes of each memory space on one core, arguments included.

    Args:
      body: a kernel's jaxpr, from `emu.tracing.jaxpr.trace`.
      device: the machine.

    Raises:
      OutOfMemory: a peak exceeds the device's capacity; names the space, the figures and the line
        at which the peak is reached.
    """
    arguments = [Storage(device.home, _nbytes(atom.aval)) for atom in body.invars]
    _, inside = _body(device, body, arguments)
    needed = {space: peak.nbytes for space, peak in inside.items()}
    # Arguments and constants stay in the home space from the first instruction to the last.
    held = sum(_nbytes(atom.aval) for atom in (*body.invars, *body.constvars))
    needed[device.home] = needed.get(device.home, 0) + held
    for space, nbytes in needed.items():
        allowed = device.capacity_bytes.get(space)
        if allowed is not None and nbytes > allowed:
            raise OutOfMemory(
                f"{device.core}: the kernel needs {nbytes:,} bytes of {space}, has {allowed:,}; "
                "use smaller or fewer tiles",
                inside[space].line if space in inside else "arguments",
            )
    return needed


def _nbytes(aval: Any) -> int:
    return aval.size * aval.dtype.itemsize


# --- bodies ---


def _body(
    device: Device,
    body: jx.Body,
    inputs: Storages,
    stacked_from: int | None = None,
) -> Results:
    """Outputs of a body, and the peak of the buffers made inside it.

    Args:
      device: gives each memory space's form.
      body: the jaxpr.
      inputs: its inputs' buffers.
      stacked_from: of a loop's body: outputs from this one on are slices of a stack that lies
        outside.
    """
    buffers: dict[jx.Atom, Storage | None] = {}
    buffers.update(zip(body.invars, inputs, strict=True))
    made: list[list[Storage]] = []
    last_use: dict[Storage, int] = {}
    inner: list[Inside] = []
    end = len(body.eqns)

    def buffer(atom: jx.Atom) -> Storage | None:
        return None if jx.is_literal(atom) else buffers.get(atom)

    for number, eqn in enumerate(body.eqns):
        operands = [buffer(atom) for atom in eqn.invars]
        results, inside = _equation(device, eqn, operands)
        buffers.update(zip(eqn.outvars, results, strict=True))
        inner.append(inside)
        made.append([each for each in _distinct(results) if each not in operands])
        for each in _distinct([*operands, *results]):
            last_use[each] = number
    outputs = [buffer(atom) for atom in body.outvars]
    for each in _distinct(outputs):
        last_use[each] = end
    if stacked_from is not None:
        outside = set(_distinct(outputs[stacked_from:]))
        made = [[each for each in group if each not in outside] for group in made]
        # What is free in one iteration is in use in another.
        for group in made:
            last_use.update(dict.fromkeys(group, end))
    return outputs, _sweep(body, made, last_use, inner)


def _distinct(storages: Storages) -> list[Storage]:
    return list(dict.fromkeys(each for each in storages if each is not None))


def _sweep(
    body: jx.Body,
    made: list[list[Storage]],
    last_use: dict[Storage, int],
    inner: list[Inside],
) -> Inside:
    """The peak over the body's equations of what is live between them and inside them.

    Args:
      body: the jaxpr.
      made: of each equation, the buffers that it makes.
      last_use: of each buffer, the number of the equation after which it is free.
      inner: of each equation, the peak of what lives only inside it.
    """
    freed: dict[int, list[Storage]] = collections.defaultdict(list)
    for each in itertools.chain.from_iterable(made):
        freed[last_use[each]].append(each)
    live: collections.Counter[str] = collections.Counter()
    peak: Inside = {}
    for number, eqn in enumerate(body.eqns):
        for space, found in inner[number].items():
            _raise_to(peak, space, Peak(live[space] + found.nbytes, found.line))
        for each in made[number]:
            live[each.space] += each.nbytes
            _raise_to(peak, each.space, Peak(live[each.space], jx.location(eqn)))
        for each in freed[number]:
            live[each.space] -= each.nbytes
    return peak


def _raise_to(peak: Inside, space: str, found: Peak) -> None:
    if found.nbytes > peak.get(space, Peak()).nbytes:
        peak[space] = found


# --- equations ---


def _equation(device: Device, eqn: jx.Equation, operands: Storages) -> Results:
    """Buffers of an equation's results, and the peak of what lives only inside it."""
    name = eqn.primitive.name
    if inst := lookup(eqn.primitive):
        return _instruction(device, inst, eqn, operands), {}
    if name == "scan":
        return _scan(device, eqn, operands)
    if name == "cond":
        return _cond(device, eqn, operands)
    if (body := jx.call(eqn)) is not None:
        outputs, inside = _body(device, body, operands)
        return _adopt(outputs, operands), inside
    if name in jx.IDENTITIES:
        return operands, {}
    if name in jx.VIEWS:
        return operands[:1], {}
    return [None] * len(eqn.outvars), {}


def _instruction(
    device: Device, inst: Instruction[..., Any], eqn: jx.Equation, operands: Storages
) -> Storages:
    if inst.in_place:
        return operands[: inst.destinations]
    shares_bank = eqn.params.get("bank") is not None
    count = eqn.params.get("buffers", 1)  # of the ring
    made: list[Storage] = []
    for atom, space in zip(eqn.outvars, inst.writes, strict=True):
        nbytes = device.footprint_bytes(space, atom.aval, whole=not shares_bank)
        made.append(Storage(space, count * nbytes))
    return made


def _scan(device: Device, eqn: jx.Equation, operands: Storages) -> Results:
    """The stacks that a loop fills live from its first iteration on."""
    loop = jx.scan(eqn)
    outputs, inside = _body(device, loop.body, operands, stacked_from=loop.carry)
    carry, slices = outputs[: loop.carry], outputs[loop.carry :]
    here = jx.location(eqn)
    stacks: list[Storage | None] = []
    for slice_, whole in zip(slices, eqn.outvars[loop.carry :], strict=True):
        if slice_ is None:
            stacks.append(None)
            continue
        stack = Storage(slice_.space, _nbytes(whole.aval))
        stacks.append(stack)
        loop_peak = inside.get(stack.space, Peak(0, here))
        inside[stack.space] = Peak(loop_peak.nbytes + stack.nbytes, loop_peak.line)
    return [*_adopt(carry, operands), *stacks], inside


def _cond(device: Device, eqn: jx.Equation, operands: Storages) -> Results:
    peak: Inside = {}
    outputs: Storages = []
    for branch in jx.branches(eqn):
        outputs, inside = _body(device, branch, operands[1:])
        for space, found in inside.items():
            _raise_to(peak, space, found)
    return _adopt(outputs, operands), peak


def _adopt(outputs: Storages, inputs: Iterable[Storage | None]) -> Storages:
    """An inner body's outputs, seen from outside: buffers of inputs, or ones of their own."""
    adopted: list[Storage | None] = []
    for output in outputs:
        if output is None or output in inputs:
            adopted.append(output)
        else:
            adopted.append(Storage(output.space, output.nbytes))
    return adopted
