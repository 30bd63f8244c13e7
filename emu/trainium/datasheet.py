"""The datasheets of Trainium1, Trainium2 and Trainium3, and how many cores of a chip run."""

import dataclasses

from emu.datasheet import Quantity
from emu.trainium.sheet import DMA_QUEUES, NeuronCoreSheet
from emu.trainium.trn1 import TRN1
from emu.trainium.trn2 import TRN2
from emu.trainium.trn3 import TRN3

__all__ = ["DMA_QUEUES", "TRN1", "TRN2", "TRN3", "NeuronCoreSheet", "with_cores"]


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
        hbm_bytes=Quantity(hbm_bytes, "derived", f"{sheet.hbm_bytes.source}, by {cores} cores"),
    )
