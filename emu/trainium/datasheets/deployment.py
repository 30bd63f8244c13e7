"""How many cores of a chip run, and in which system the chip stands."""

import dataclasses

from emu.datasheet import Quantity
from emu.trainium.datasheets.sheet import NeuronCoreSheet
from emu.trainium.datasheets.topology import System


def with_cores(sheet: NeuronCoreSheet, cores: int) -> NeuronCoreSheet:
    """The same chip with `cores` of its cores running: they share its HBM, bytes and bandwidth.

    Raises:
      ValueError: more cores than the chip has, or none.
    """
    if not 1 <= cores <= sheet.cores_per_chip.value:
        raise ValueError(
            f"{sheet.name}: {cores} cores run, must be 1 to {sheet.cores_per_chip.value}"
        )
    hbm_bytes = sheet.hbm_bytes.value * sheet.cores_running.value // cores
    return dataclasses.replace(
        sheet,
        cores_running=Quantity(cores, "derived", "chosen by the program"),
        hbm_bytes=Quantity(
            hbm_bytes, "derived", f"{sheet.hbm_bytes.source}, by {cores} cores"
        ),
    )


def on_system(sheet: NeuronCoreSheet, system: System) -> NeuronCoreSheet:
    """The same chip with its links those of `system`, whose topology prices sends and collectives.

    Raises:
      ValueError: a system of another generation of chips.
    """
    if sheet.generation != system.generation:
        raise ValueError(
            f"{system.name}: its chips have NeuronCore-v{system.generation}, {sheet.name} has "
            f"v{sheet.generation}"
        )
    return dataclasses.replace(sheet, system=system)
