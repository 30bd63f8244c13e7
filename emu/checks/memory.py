"""Live bytes per memory space of one core, from the same jaxpr: peak use and `OutOfMemory`.

A buffer lives from the instruction that makes it to the last use of any tile in it. Tiles written
in place and views share their buffer. A tile declared in a loop is a ring of as many buffers as it
asks for, which live as long as the loop whose body declares it: its iterations overlap. A tile that
a loop's carry takes out of it is one buffer of the ring.
In a partitioned space a tile takes its bytes per partition, in whole grains, on every partition.

A bank that a kernel names is one grain, which tiles that name it share: it is taken whole while
any of them lives. Say a loop holds six PSUM tiles in banks of their own, and four transposes of 512
bytes a partition in each of the named banks 0 and 1: that is 6 + 2 banks. A tile around the loop
that names bank 1 too takes no further bank, but 512 bytes more of that one, which then holds 2,560
of its 2,048: refused.

Tiles that share banks without naming one are put where there is room: each takes the power of two
of bytes that holds it, so they always fit together (`emu.datasheet.packed_bytes`).
"""

import collections
import dataclasses
import itertools
import weakref
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

from emu.datasheet import Device, Packing
from emu.errors import OutOfMemory
from emu.instruction import Instruction, lookup
from emu.tracing import jaxpr as jx

Peaks: TypeAlias = dict[str, int]
"""Memory space to its peak bytes."""


Bank: TypeAlias = tuple[str, int]
"""A memory space and the number of a bank in it that a kernel names."""


@dataclasses.dataclass(eq=False)
class Storage:
    """A buffer, or a ring of them. Each equals itself only: two may be of the same size.

    Attributes:
      space: where it is.
      nbytes: of all its buffers.
      bank: the named bank that it shares with others, or None.
      buffers: how many there are in its ring.
      instead: buffers that it may be instead, by the branch taken: they live as long as it does.
    """

    space: str
    nbytes: int
    bank: Bank | None = None
    buffers: int = 1
    instead: "tuple[Storage, ...]" = ()

    def one(self) -> "Storage":
        """One buffer of the ring."""
        nbytes = self.nbytes // self.buffers
        return dataclasses.replace(self, nbytes=nbytes, buffers=1)


Storages: TypeAlias = Sequence[Storage | None]
"""The buffer of each of several values; None for those in no memory, such as loop indices."""


class Peak(NamedTuple):
    """The most bytes of a space in use at once, and the equation at which that is reached."""

    nbytes: int = 0
    eqn: jx.Equation | None = None

    @property
    def line(self) -> str:
        """The kernel's, or `arguments`; to find it takes longer than all else that is done here."""
        return "arguments" if self.eqn is None else jx.location(self.eqn)


Banks: TypeAlias = frozenset[int]
"""The named banks of a space that are taken at one time."""


@dataclasses.dataclass
class Inside:
    """What the buffers take that live only inside a body or an equation.

    Attributes:
      own: memory space, and the named banks of it taken meanwhile, to the peak of all else in it.
      shared: named bank to the peak of what its tiles hold.
    """

    own: dict[tuple[str, Banks], Peak] = dataclasses.field(
        default_factory=dict[tuple[str, Banks], Peak]
    )
    shared: dict[Bank, Peak] = dataclasses.field(default_factory=dict[Bank, Peak])

    @property
    def is_any(self) -> bool:
        """Whether there are such buffers."""
        return bool(self.own or self.shared)

    def include(self, other: "Inside") -> None:
        """Raises every peak to that of `other`."""
        for key, found in other.own.items():
            _raise_to(self.own, key, found)
        for bank, found in other.shared.items():
            _raise_to(self.shared, bank, found)


Results: TypeAlias = tuple[Storages, Inside]
"""Of a body or an equation: the buffers of its results, and its inside."""

_FOUND: weakref.WeakKeyDictionary[jx.Body, list[tuple[object, Peaks]]] = (
    weakref.WeakKeyDictionary()
)
"""Of a program that fits the memories of a machine, what it needs: each reading asks again."""


def peaks(body: jx.Body, device: Device) -> Peaks:
    """Peak live bytes of each memory space on one core, arguments included.

    Args:
      body: a kernel's jaxpr, from `emu.tracing.jaxpr.trace`.
      device: the machine.

    Raises:
      OutOfMemory: a peak exceeds the device's capacity; names the space, the figures and the line
        at which the peak is reached.
    """
    # All that is asked of a machine.
    memories = device.home, device.capacity_bytes, device.partitioned
    known = _FOUND.setdefault(body, [])
    for others, found in known:
        if others == memories:
            return dict(found)
    found = _peaks(body, device)
    known.append((memories, found))
    return dict(found)


def _peaks(body: jx.Body, device: Device) -> Peaks:
    arguments = [Storage(device.home, _nbytes(atom.aval)) for atom in body.invars]
    _, inside = _body(device, body, arguments)
    for bank, found in inside.shared.items():
        _check_bank(device, bank, found)
    needed: dict[str, Peak] = {}
    for (space, banks), found in inside.own.items():
        # Peaks are kept by set of banks because the most of all else need not be the most in total:
        # 6 banks' worth beside bank 0 is 7, and 5 beside banks 0, 1 and 2 is 8.
        taken = len(banks) * _bank_nbytes(device, space) if banks else 0
        _raise_to(needed, space, Peak(found.nbytes + taken, found.eqn))
    # Arguments and constants stay in the home space from the first instruction to the last.
    held = sum(_nbytes(atom.aval) for atom in (*body.invars, *body.constvars))
    made = needed.get(device.home, Peak())
    needed[device.home] = Peak(made.nbytes + held, made.eqn)
    for space, peak in needed.items():
        allowed = device.capacity_bytes.get(space)
        if allowed is not None and peak.nbytes > allowed:
            raise OutOfMemory(
                f"{device.core}: the kernel needs {peak.nbytes:,} bytes of {space}, has "
                f"{allowed:,}; use smaller or fewer tiles",
                peak.line,
            )
    return {space: peak.nbytes for space, peak in needed.items()}


def _check_bank(device: Device, bank: Bank, found: Peak) -> None:
    space, number = bank
    allowed = _bank_nbytes(device, space)
    if found.nbytes > allowed:
        raise OutOfMemory(
            f"{device.core}: the tiles in bank {number} of {space} take {found.nbytes:,} bytes, a "
            f"bank has {allowed:,}; name further banks or use smaller tiles",
            found.line,
        )


def _bank_nbytes(device: Device, space: str) -> int:
    """Bytes of one bank, on all partitions."""
    partitions, grain = device.partitioned[space]
    return partitions * grain


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
        # A result in an operand's buffer, or in a view of it, takes nothing further.
        made.append([each for each in _distinct(results) if each not in operands])
        for each in _distinct([*operands, *results]):
            last_use[each] = number
    outputs = [buffer(atom) for atom in body.outvars]
    for each in _distinct(outputs):
        last_use[each] = end
    if stacked_from is not None:
        # A slice lies in its stack, which is counted around the loop.
        outside = set(_distinct(outputs[stacked_from:]))
        made = [[each for each in group if each not in outside] for group in made]
        # What is free in one iteration is in use in another.
        for group in made:
            last_use.update(dict.fromkeys(group, end))
    return outputs, _sweep(body, made, last_use, inner)


def _distinct(storages: Storages) -> list[Storage]:
    """Each buffer once, with those that it may be instead."""
    found: dict[Storage, None] = {}
    for each in storages:
        if each is not None:
            found[each] = None
            if each.instead:
                found.update(dict.fromkeys(_distinct(each.instead)))
    return list(found)


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
    live = Live()
    peak = Inside()
    for number, eqn in enumerate(body.eqns):
        # Before its results are taken: those that an inner body made are in its own peak already.
        if inner[number].is_any:
            peak.include(live.around(inner[number]))
        for each in made[number]:
            live.take(each)
            peak.include(live.now(each, eqn))
        # Operands go after the results have come: while the equation runs both are there.
        for each in freed[number]:
            live.give_back(each)
    return peak


class Live:
    """What is in use at one time.

    Attributes:
      own: memory space to the bytes in no named bank.
      shared: named bank to the bytes that its tiles hold.
    """

    def __init__(self) -> None:
        self.own: collections.Counter[str] = collections.Counter()
        self.shared: collections.Counter[Bank] = collections.Counter()

    def take(self, storage: Storage) -> None:
        if storage.bank is None:
            self.own[storage.space] += storage.nbytes
        else:
            self.shared[storage.bank] += storage.nbytes

    def give_back(self, storage: Storage) -> None:
        if storage.bank is None:
            self.own[storage.space] -= storage.nbytes
        else:
            self.shared[storage.bank] -= storage.nbytes

    def banks(self, space: str) -> Banks:
        """The named banks of a space that something is in."""
        return frozenset(
            number
            for (where, number), nbytes in self.shared.items()
            # A bank whose tiles are all gone is still in the counter, with 0.
            if where == space and nbytes
        )

    def now(self, storage: Storage, eqn: jx.Equation) -> Inside:
        """What is in use of a buffer's space, and of its bank, at an equation."""
        space, bank = storage.space, storage.bank
        now = Inside({(space, self.banks(space)): Peak(self.own[space], eqn)})
        if bank is not None:
            now.shared[bank] = Peak(self.shared[bank], eqn)
        return now

    def around(self, inner: Inside) -> Inside:
        """What is in use while an equation takes `inner` besides."""
        around = Inside()
        for (space, banks), found in inner.own.items():
            # A set, so that a bank which is named inside and around as well is counted once.
            both = space, banks | self.banks(space)
            nbytes = self.own[space] + found.nbytes
            _raise_to(around.own, both, Peak(nbytes, found.eqn))
        for bank, found in inner.shared.items():
            around.shared[bank] = Peak(self.shared[bank] + found.nbytes, found.eqn)
        return around


K = TypeVar("K")


def _raise_to(peaks: dict[K, Peak], key: K, found: Peak) -> None:
    # Of lines that reach the same peak the first is told.
    if key not in peaks or found.nbytes > peaks[key].nbytes:
        peaks[key] = found


# --- equations ---


def _equation(device: Device, eqn: jx.Equation, operands: Storages) -> Results:
    """Buffers of an equation's results, and the peak of what lives only inside it."""
    name = eqn.primitive.name
    if inst := lookup(eqn.primitive):
        return _instruction(device, inst, eqn, operands), Inside()
    if name == "scan":
        return _scan(device, eqn, operands)
    if name == "cond":
        return _cond(device, eqn, operands)
    if (body := jx.call(eqn)) is not None:
        outputs, inside = _body(device, body, operands)
        return _adopt(outputs, operands), inside
    if name in jx.IDENTITIES:
        return operands, Inside()
    if name in jx.VIEWS:
        return operands[:1], Inside()
    return [None] * len(eqn.outvars), Inside()


def _instruction(
    device: Device, inst: Instruction[..., Any], eqn: jx.Equation, operands: Storages
) -> Storages:
    if inst.in_place:
        return operands[: inst.destinations]
    number: int | None = eqn.params.get("bank")
    packing = Packing.of(eqn.params)
    count: int = eqn.params.get("buffers", 1)  # of the ring
    made: list[Storage] = []
    for atom, space in zip(eqn.outvars, inst.writes, strict=True):
        nbytes = device.footprint_bytes(space, atom.aval, packing)
        # Where a device has no grains, tiles that name a bank only share its port.
        bank = None
        if number is not None and space in device.partitioned:
            bank = space, number
        made.append(Storage(space, count * nbytes, bank, count))
    return made


def _scan(device: Device, eqn: jx.Equation, operands: Storages) -> Results:
    """The stacks that a loop fills live from its first iteration on."""
    loop = jx.scan(eqn)
    outputs, inside = _body(device, loop.body, operands, stacked_from=loop.carry)
    carry, slices = outputs[: loop.carry], outputs[loop.carry :]
    stacks: list[Storage | None] = []
    live = Live()
    for slice_ in slices:
        if slice_ is None:
            stacks.append(None)
            continue
        # Out of a ring of 2 a slice is one buffer: 100 iterations stack 100 of them, not 200.
        each = slice_.one()
        stack = Storage(each.space, loop.length * each.nbytes)
        stacks.append(stack)
        live.take(stack)
    around = live.around(inside)
    # A body that makes nothing inside has no peak that the stacks could have been added to.
    for stack in _distinct(stacks):
        around.include(live.now(stack, eqn))
    # The ring ends with its loop; the one buffer that the carry takes out of it goes on.
    kept = [each if each is None or each in operands else each.one() for each in carry]
    return [*_adopt(kept, operands), *stacks], around


def _cond(device: Device, eqn: jx.Equation, operands: Storages) -> Results:
    """A result is one of those of the branches: the largest of what they make, or an input."""
    inside = Inside()
    each_branch: list[Storages] = []
    for branch in jx.branches(eqn):
        outputs, inside_branch = _body(device, branch, operands[1:])
        each_branch.append(_adopt(outputs, operands))
        # A core takes one of the branches: their peaks are compared, not added.
        inside.include(inside_branch)
    results = zip(*each_branch, strict=True)
    return [_one_of(cases, operands) for cases in results], inside


def _one_of(cases: Storages, inputs: Storages) -> Storage | None:
    """The buffer of a branch's result, which depends on the branch that is taken."""
    distinct = _distinct(cases)
    made = [each for each in distinct if each not in inputs]
    passed = [each for each in distinct if each in inputs]
    if not made:
        first = passed[0] if passed else None
        return first if len(passed) < 2 else _instead(passed)
    # Room for the largest is room for whichever it is; an input that it may be instead cannot be
    # freed, as no one can tell before the branch is taken.
    largest = max(made, key=lambda each: each.nbytes)
    return dataclasses.replace(largest, instead=tuple(passed))


def _instead(passed: list[Storage]) -> Storage:
    """One of several inputs: nothing of its own, but all of them live as long."""
    return Storage(passed[0].space, 0, instead=tuple(passed))


def _adopt(outputs: Storages, inputs: Iterable[Storage | None]) -> Storages:
    """An inner body's outputs, seen from outside: buffers of inputs, or ones of their own."""
    adopted: list[Storage | None] = []
    for output in outputs:
        if output is None or output in inputs:
            adopted.append(output)
        else:
            adopted.append(dataclasses.replace(output))
    return adopted
