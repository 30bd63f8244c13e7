"""Several bands of one machine in one pass: they are one more dimension of the mesh, the first.

A program does the same under every band and only its times differ, so most of the walk (branches,
known integers, rings, checks) is shared. What costs a band's own time is asked for band by band:
prices (`emu.clock.price.BandPrices`), arrivals of collectives, and loops on one core.

Say a ring of 4 chips is read under low, nominal and high. The mesh is then 3 x 4, and a clock is a
number where all twelve agree, `[[7], [8], [9]]` where only the bands differ, and `int64[3, 4]` in
general. No instruction crosses bands, so each is to the tick what a reading of it alone would be.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from emu.clock.reading import Reading
from emu.clock.tally import Tally
from emu.clock.ticks import PerCore, Ticks, settled
from emu.clock.tiles import Value
from emu.datasheet import Device
from emu.instruction import Crossing, Instruction, Operand
from emu.tracing import jaxpr as jx

AXIS = "emu.clock.bands"
"""Name of the bands' dimension in the mesh; no kernel can name it by chance."""


def can_be_read_together(devices: tuple[Device, ...]) -> bool:
    """Whether engines throttle alike under all bands; a charge cannot follow several laws."""
    laws = devices[0].throttle_laws
    return all(device.throttle_laws == laws for device in devices)


def arrive(
    inst: Instruction[..., Any],
    eqn: jx.Equation,
    devices: tuple[Device, ...],
    mesh: Mapping[str, int],
    crossing: Crossing,
    operands: list[Operand],
) -> tuple[np.ndarray, np.ndarray]:
    """When a collective's results arrive and its engines are free, under each band.

    Args:
      inst, eqn: the collective.
      devices: the machine under each band.
      mesh: with the bands' dimension.
      crossing: `int64[bands, *mesh]`.
      operands: their known integers without the bands' dimension.
    """
    assert inst.arrival is not None
    inner = {axis: size for axis, size in mesh.items() if axis != AXIS}
    ready: list[np.ndarray] = []
    free: list[np.ndarray] = []
    for band, device in enumerate(devices):
        # An arrival rule knows one machine and its mesh: it is asked as if that band were alone.
        own = _crossing_of_band(crossing, band)
        arrival, freed = inst.arrival(device, inner, own, *operands, **eqn.params)
        ready.append(arrival)
        free.append(freed)
    return np.stack(ready), np.stack(free)


def _crossing_of_band(crossing: Crossing, band: int) -> Crossing:
    own: dict[str, np.ndarray] = {}
    for field in dataclasses.fields(Crossing):
        times = getattr(crossing, field.name)
        own[field.name] = times[band]
    return Crossing(**own)


def apart(reading: Reading, devices: tuple[Device, ...]) -> list[Reading]:
    """A reading under several bands as one reading of each."""
    bands = len(devices)
    each: list[Reading] = []
    for band, device in enumerate(devices):
        each.append(_of_band(reading, device, band, bands))
    return each


def _of_band(reading: Reading, device: Device, band: int, bands: int) -> Reading:
    last: dict[str, PerCore] = {}
    for engine, time in reading.last.items():
        last[engine] = _ticks(time, band)
    spent: dict[tuple[str, str], PerCore] = {}
    for (engine, what), time in reading.spent.items():
        own = _ticks(time, band)
        # What nobody waited for under this band is not named in a reading of it alone.
        if what.startswith("wait:") and not np.any(own):
            continue
        spent[engine, what] = own
    # Cores of all bands were counted, and every band issues the same.
    sums = {key: total // bands for key, total in reading.tally.sums.items()}
    return dataclasses.replace(
        reading,
        device=device,
        grid=reading.grid[1:],
        end=_ticks(reading.end, band),
        last=last,
        spent=spent,
        tally=Tally(sums),
        outputs=[_value(value, band) for value in reading.outputs],
        issued=reading.issued // bands,
    )


def _ticks(time: Ticks, band: int) -> PerCore:
    """A time under one band: of `[[7], [8], [9]]` the second band's is 8."""
    time = settled(time)
    if isinstance(time, int):
        return time
    bands_agree = len(time) == 1
    own = time[0 if bands_agree else band]
    # Where the cores of a band agree, a reading of it alone would have a plain number.
    return int(own.item()) if own.size == 1 else own


def _value(value: Value, band: int) -> Value:
    ready = _ticks(value.ready, band)
    steps = value.steps
    if steps is not None:
        steps = [_ticks(time, band) for time in steps]
    known = value.known
    if known is not None:
        # Known integers follow from the kernel's arguments and indices, never from a time, so they
        # are the same under every band.
        known = known[0]
    return dataclasses.replace(value, ready=ready, steps=steps, known=known)


__all__ = ["AXIS", "apart", "arrive", "can_be_read_together"]
