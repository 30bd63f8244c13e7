"""Live bytes per memory space of one core, from the same jaxpr: peak use and `OutOfMemory`.

A buffer lives from the instruction that makes it to the last use of any tile in it. Tiles written
in place and views share their buffer; a tile declared in a loop is one buffer, reused each time.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from emu import jaxpr as jx
from emu.datasheet import Device
from emu.errors import OutOfMemory
from emu.instruction import lookup
from emu.timeline import IDENTITIES, VIEWS

Peaks = dict[str, int]


@dataclasses.dataclass(eq=False)
class Storage:
    """A buffer: where it is, how large, and where in its body it is made and last used."""

    space: str
    nbytes: int
    made: int
    last_use: int


def peaks(
    kernel: Callable[..., Any], avals: list[Any], mesh: Mapping[str, int], device: Device
) -> Peaks:
    """Peak live bytes of each memory space on one core, arguments included.

    Raises:
      OutOfMemory: a peak exceeds the device's capacity; names the space, the figures and the line
        at which the peak is reached.
    """
    body = jx.trace(kernel, avals, mesh)
    arguments = [Storage(device.home, _nbytes(v.aval), -1, 0) for v in body.invars]
    walk = _Walk()
    _, peak, where = walk.body(body, arguments)
    peak[device.home] += sum(a.nbytes for a in arguments)
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


class _Walk:
    def body(
        self, body: jx.Body, ins: list[Storage | None]
    ) -> tuple[list[Storage | None], Counter[str], dict[str, str]]:
        """Outputs, peak bytes made inside this body by space, and the line of each peak."""
        env: dict[Any, Storage | None] = dict(zip(body.invars, ins, strict=True))
        env |= dict.fromkeys(body.constvars)
        made: list[Storage] = []
        inner: list[tuple[Counter[str], dict[str, str]]] = []

        def get(atom: Any) -> Storage | None:
            return None if jx.is_literal(atom) else env.get(atom)

        for i, eqn in enumerate(body.eqns):
            xs = [get(v) for v in eqn.invars]
            outs, peak, where = self.equation(eqn, xs, i)
            env.update(zip(eqn.outvars, outs, strict=True))
            inner.append((peak, where))
            for storage in (*xs, *outs):
                if storage is not None:
                    storage.last_use = max(storage.last_use, i) if storage.made >= 0 else i
            made += [o for o in outs if o is not None and o.made == i and o not in made]
        results = [get(v) for v in body.outvars]
        for storage in results:
            if storage is not None:
                storage.last_use = len(body.eqns)
        peak, where = _sweep(body, made, inner)
        return results, peak, where

    def equation(
        self, eqn: Any, xs: list[Storage | None], i: int
    ) -> tuple[list[Storage | None], Counter[str], dict[str, str]]:
        name, none = eqn.primitive.name, (Counter(), {})
        new = lambda v, space: Storage(space, _nbytes(v.aval), i, i)  # noqa: E731
        if inst := lookup(eqn.primitive):
            if inst.in_place:
                return xs[: inst.destinations], *none
            fresh = zip(eqn.outvars, inst.writes, strict=True)
            return [new(v, space) for v, space in fresh], *none
        if name == "scan":
            return self.scan(eqn, xs, i)
        if name == "cond":
            return self.cond(eqn, xs, i)
        if (body := jx.call(eqn)) is not None:
            outs, peak, where = self.body(body, xs)
            return [_adopt(o, xs, i) for o in outs], peak, where
        if (name in VIEWS or name in IDENTITIES) and xs:
            return [xs[0]], *none
        return [None] * len(eqn.outvars), *none

    def scan(self, eqn: Any, xs: list[Storage | None], i: int) -> Any:
        s = jx.scan(eqn)
        outs, peak, where = self.body(s.body, xs)
        carry = [_adopt(o, xs, i) for o in outs[: s.carry]]
        stacked = [
            None if o is None else Storage(o.space, _nbytes(v.aval), i, i)
            for o, v in zip(outs[s.carry :], eqn.outvars[s.carry :], strict=True)
        ]
        return [*carry, *stacked], peak, where

    def cond(self, eqn: Any, xs: list[Storage | None], i: int) -> Any:
        peak: Counter[str] = Counter()
        where: dict[str, str] = {}
        outs: list[Storage | None] = []
        for branch in jx.branches(eqn):
            outs, inside, lines = self.body(branch, xs[1:])
            where |= {k: v for k, v in lines.items() if inside[k] > peak[k]}
            peak |= inside
        return [_adopt(o, xs, i) for o in outs], peak, where


def _adopt(storage: Storage | None, ins: list[Storage | None], i: int) -> Storage | None:
    """An inner body's output, seen from outside: an input's buffer, or one made at equation `i`."""
    if storage is None or storage in ins:
        return storage
    return Storage(storage.space, storage.nbytes, i, i)


def _sweep(
    body: jx.Body, made: list[Storage], inner: list[tuple[Counter[str], dict[str, str]]]
) -> tuple[Counter[str], dict[str, str]]:
    """The peak over the body's equations of what is live between them and inside them."""
    starts: dict[int, list[Storage]] = {}
    ends: dict[int, list[Storage]] = {}
    for s in made:
        starts.setdefault(s.made, []).append(s)
        ends.setdefault(s.last_use, []).append(s)
    live: Counter[str] = Counter()
    peak: Counter[str] = Counter()
    where: dict[str, str] = {}
    for i, eqn in enumerate(body.eqns):
        extra, lines = inner[i]
        for space in extra:
            if live[space] + extra[space] > peak[space]:
                peak[space] = live[space] + extra[space]
                where[space] = lines.get(space, jx.location(eqn))
        for s in starts.get(i, ()):
            live[s.space] += s.nbytes
            if live[s.space] > peak[s.space]:
                peak[s.space], where[s.space] = live[s.space], jx.location(eqn)
        for s in ends.get(i, ()):
            live[s.space] -= s.nbytes
    return peak, where
