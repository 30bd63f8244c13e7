"""The compiled reading of a kernel: what the vendor's compiler visibly does, a module for each.

Every pass takes a recorded kernel and gives another that computes the same values, bit for bit,
with an `Effect` that says in words what it changed. None changes the kernel it is given.
"""

from collections.abc import Collection

from emu.datasheet import Device
from emu.errors import EmulationError
from emu.trainium import isa
from emu.trainium.engines.dma_compute import dma_copy
from emu.trainium.nki.passes import (
    common,
    depth,
    engines,
    fuse,
    hoist,
    side_by_side,
    spill,
)
from emu.trainium.nki.passes.costs import Costs
from emu.trainium.nki.passes.effect import Effect
from emu.trainium.nki.passes.memory import memory
from emu.trainium.nki.passes.uses import has_cores
from emu.trainium.nki.tree import Choice, Recorded

RELOADS = "reloads"
"""Hoisting once more: what was spilled is loaded less often where some room is left."""

PASSES = (
    fuse.NAME,
    common.NAME,
    hoist.NAME,
    spill.NAME,
    RELOADS,
    engines.NAME,
    side_by_side.NAME,
    depth.NAME,
)
"""All of them, in the order in which they are done."""


def compiled(
    recorded: Recorded, device: Device, skip: Collection[str] = ()
) -> tuple[Recorded, list[Effect]]:
    """A kernel as the compiler would have it.

    Args:
      recorded: as written.
      device: the machine whose memory and engines decide.
      skip: passes left out, by name.

    Raises:
      EmulationError: no pass of such a name.
    """
    for name in skip:
        if name not in PASSES:
            raise EmulationError(
                f"pass is {name!r}, must be one of {', '.join(PASSES)}"
            )
    if has_cores(recorded.body):
        # What crosses cores parts a program; between two crossings it is left as it is.
        skip = {each for each in PASSES if each != engines.NAME}
    place = memory(device)
    costs = Costs(device)
    load = Choice("dma", dma_copy, {"queue": "load_queue"})
    store = Choice("dma", dma_copy, {"queue": "store_queue"})
    copies = _out_of_psum(device)
    steps = {
        fuse.NAME: lambda kernel: fuse.apply(kernel, place),
        common.NAME: lambda kernel: common.apply(kernel, place),
        hoist.NAME: lambda kernel: hoist.apply(kernel, place),
        spill.NAME: lambda kernel: spill.apply(kernel, place, load, store, copies),
        RELOADS: lambda kernel: hoist.apply(kernel, place, RELOADS),
        engines.NAME: lambda kernel: engines.apply(kernel, costs),
        side_by_side.NAME: lambda kernel: side_by_side.apply(kernel, place, costs),
        depth.NAME: lambda kernel: depth.apply(kernel, place),
    }
    effects: list[Effect] = []
    for name in PASSES:
        if name not in skip:
            recorded, effect = steps[name](recorded)
            effects.append(effect)
    return recorded, effects


def _out_of_psum(device: Device) -> tuple[Choice, ...]:
    """Copies to SBUF, as the kernel's own are."""
    by_vector = Choice("vector", isa.tensor_copy, {})
    if device.scalar_elementwise:
        return by_vector, Choice("scalar", isa.tensor_copy, {"engine": "scalar"})
    return by_vector, Choice("scalar", isa.activation, {"op": "copy"})


__all__ = ["PASSES", "Effect", "compiled"]
