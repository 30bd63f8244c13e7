"""How many cores of a chip run, and in which system the chip stands."""

import dataclasses
from collections.abc import Iterable

from emu import given
from emu.datasheet import Quantity
from emu.trainium.datasheets.sheet import NeuronCoreSheet
from emu.trainium.datasheets.topology import System


def with_cores(sheet: NeuronCoreSheet, cores: int) -> NeuronCoreSheet:
    """The same chip with `cores` of its cores running: they share its HBM, bytes and bandwidth.

    Raises:
      LimitExceeded: more cores than the chip has, or none.
    """
    given.whole(f"{sheet.name}: cores that run", cores, 1, sheet.cores_per_chip.value)
    hbm_bytes = sheet.hbm_bytes.value * sheet.cores_running.value // cores
    return dataclasses.replace(
        sheet,
        cores_running=Quantity(cores, "derived", "chosen by the program"),
        hbm_bytes=Quantity(
            hbm_bytes, "derived", f"{sheet.hbm_bytes.source}, by {cores} cores"
        ),
    )


def systems_of(sheet: NeuronCoreSheet, systems: Iterable[System]) -> list[System]:
    """Those of some systems that are built of the sheet's chips."""
    return [system for system in systems if system.generation == sheet.generation]


def on_system(sheet: NeuronCoreSheet, system: System) -> NeuronCoreSheet:
    """The same chip with its links those of `system`, whose topology prices sends and collectives.

    Raises:
      LimitExceeded: a system of another generation of chips.
    """
    if not isinstance(system, System):
        told = given.told(system)
        given.refuse(f"system is {told}, must be one of `SYSTEMS.values()`")
    if sheet.generation != system.generation:
        given.refuse(
            f"{system.name}: its chips have NeuronCore-v{system.generation}, {sheet.name} has "
            f"v{sheet.generation}"
        )
    return dataclasses.replace(sheet, system=system)
