"""Live bytes per memory space of one core, from the same jaxpr: peak use and `OutOfMemory`.

A buffer lives from the instruction that makes it to the last use of any tile in it. Tiles written
in place and views share their buffer. A tile declared in a loop is a ring of as many buffers as it
asks for, which live as long as the loop whose body declares it: its iterations overlap.
In a partitioned space a tile takes its bytes per partition, in whole grains, on every partition.
"""

import dataclasses
from collections import Counter
from typing import Any

from emu.datasheet import Device
from emu.errors import OutOfMemory
from emu.instruction import lookup
from emu.tracing import jaxpr as jx

Peaks = dict[str, int]
Inside = dict[str, tuple[int, str]]  # space to its peak bytes and the line of that peak


@dataclasses.dataclass(eq=False)
class Storage:
    """A buffer: where it is and how large."""

    space: str
    nbytes: int


def peaks(body: jx.Body, device: Device) -> Peaks:
    """Peak live bytes of each memory space on one core, arguments included.

    Args:
      body: a kernel's jaxpr, from `emu.tracing.jaxpr.trace`.
      device: the machine.

    Raises:
      OutOfMemory: a peak exceeds the device's capacity; names the space, the figures and the line
        at which the peak is reached.
    """
    arguments: list[Storage | None] = [
        Storage(device.home, _nbytes(v.aval)) for v in body.invars
    ]
    peak, where = Counter(), {}
    _, inside = _body(device, body, arguments)
    for space, (used, line) in inside.items():
        peak[space], where[space] = used, line
    peak[device.home] += sum(_nbytes(v.aval) for v in (*body.invars, *body.constvars))
    for space, used in peak.items():
        allowed = device.capacity_bytes.get(space)
        if allowed is not None and used > allowed:
            raise OutOfMemory(
                f"{device.core}: the kernel needs {used:,} bytes of {space}, has {allowed:,}; "
                "use smaller or fewer tiles",
                where.get(space, "arguments"),
            )
    return dict(peak)


def _nbytes(aval: Any) -> int:
    return aval.size * aval.dtype.itemsize


def _footprint(device: Device, space: str, aval: Any, params: Any) -> int:
    """Bytes that a tile, or all buffers of its ring, takes of its memory space."""
    whole = params.get("bank") is None  # else it shares its bank
    return params.get("buffers", 1) * device.footprint_bytes(space, aval, whole)


def _body(
    device: Device,
    body: jx.Body,
    ins: list[Storage | None],
    elsewhere: int | None = None,
) -> tuple[list[Storage | None], Inside]:
    """Outputs of a body, and the peak of the buffers made inside it.

    Args:
      device: gives each memory space's form.
      body: the jaxpr.
      ins: its inputs' buffers.
      elsewhere: of a loop's body: outputs from this one on are slices of a stack that lies outside.
    """
    env: dict[Any, Storage | None] = dict(zip(body.invars, ins, strict=True))
    made: dict[int, list[Storage]] = {}
    last_use: dict[int, int] = {}
    inner: list[Inside] = []

    def get(atom: Any) -> Storage | None:
        return None if jx.is_literal(atom) else env.get(atom)

    for i, eqn in enumerate(body.eqns):
        xs = [get(v) for v in eqn.invars]
        outs, inside = _equation(device, eqn, xs)
        env.update(zip(eqn.outvars, outs, strict=True))
        inner.append(inside)
        held = {id(x) for x in xs}
        made[i] = [o for o in _distinct(outs) if id(o) not in held]
        last_use.update((id(x), i) for x in (*xs, *outs))
    results = [get(v) for v in body.outvars]
    last_use.update((id(x), len(body.eqns)) for x in results)
    stacks = {id(x) for x in results[elsewhere:]} if elsewhere is not None else set()
    own = {i: [s for s in group if id(s) not in stacks] for i, group in made.items()}
    if elsewhere is not None:  # what is free in one iteration is in use in another
        last_use |= {id(s): len(body.eqns) for group in own.values() for s in group}
    return results, _sweep(body, own, last_use, inner)


def _distinct(storages: list[Storage | None]) -> list[Storage]:
    return list({id(s): s for s in storages if s is not None}.values())


def _equation(
    device: Device, eqn: Any, xs: list[Storage | None]
) -> tuple[list[Storage | None], Inside]:
    """Buffers of an equation's results, and the peak of what lives only inside it."""
    name = eqn.primitive.name
    if inst := lookup(eqn.primitive):
        if inst.in_place:
            return xs[: inst.destinations], {}
        pairs = zip(eqn.outvars, inst.writes, strict=True)
        return [
            Storage(s, _footprint(device, s, v.aval, eqn.params)) for v, s in pairs
        ], {}
    if name == "scan":
        return _scan(device, eqn, xs)
    if name == "cond":
        return _cond(device, eqn, xs)
    if (body := jx.call(eqn)) is not None:
        outs, inside = _body(device, body, xs)
        return [_adopt(o, xs) for o in outs], inside
    if name in jx.IDENTITIES:
        return xs, {}
    if name in jx.VIEWS:
        return [xs[0]], {}
    return [None] * len(eqn.outvars), {}


def _scan(
    device: Device, eqn: Any, xs: list[Storage | None]
) -> tuple[list[Storage | None], Inside]:
    """The stacks that a loop fills live from its first iteration on."""
    s = jx.scan(eqn)
    outs, inside = _body(device, s.body, xs, elsewhere=s.carry)
    stacks = [
        None if o is None else Storage(o.space, _nbytes(v.aval))
        for o, v in zip(outs[s.carry :], eqn.outvars[s.carry :], strict=True)
    ]
    here = jx.location(eqn)
    for stack in _distinct(stacks):
        used, line = inside.get(stack.space, (0, here))
        inside[stack.space] = used + stack.nbytes, line
    return [*(_adopt(o, xs) for o in outs[: s.carry]), *stacks], inside


def _cond(
    device: Device, eqn: Any, xs: list[Storage | None]
) -> tuple[list[Storage | None], Inside]:
    peak: Inside = {}
    outs: list[Storage | None] = []
    for branch in jx.branches(eqn):
        outs, inside = _body(device, branch, xs[1:])
        for space, found in inside.items():
            peak[space] = max(peak.get(space, (0, "")), found, key=lambda p: p[0])
    return [_adopt(o, xs) for o in outs], peak


def _adopt(storage: Storage | None, ins: list[Storage | None]) -> Storage | None:
    """An inner body's output, seen from outside: an input's buffer, or one of its own."""
    if storage is None or storage in ins:
        return storage
    return Storage(storage.space, storage.nbytes)


def _sweep(
    body: jx.Body,
    made: dict[int, list[Storage]],
    last_use: dict[int, int],
    inner: list[Inside],
) -> Inside:
    """The peak over the body's equations of what is live between them and inside them."""
    ends: dict[int, list[Storage]] = {}
    for s in (s for group in made.values() for s in group):
        ends.setdefault(last_use[id(s)], []).append(s)
    live: Counter[str] = Counter()
    peak: Inside = {}

    def reach(space: str, used: int, line: str) -> None:
        if used > peak.get(space, (0, ""))[0]:
            peak[space] = used, line

    for i, eqn in enumerate(body.eqns):
        for space, (used, line) in inner[i].items():
            reach(space, live[space] + used, line)
        for s in made[i]:
            live[s.space] += s.nbytes
            reach(s.space, live[s.space], jx.location(eqn))
        for s in ends.get(i, ()):
            live[s.space] -= s.nbytes
    return peak
