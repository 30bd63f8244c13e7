"""What is known of each Trainium generation, with sources and bands: a file for each.

A generation is one file, `trn*.py`: its datasheet and the systems its chips are built into. It is
listed here and nowhere else: everything outside this folder asks a sheet for its properties.
"""

from emu import given
from emu.datasheet import Sheet, declare_machine
from emu.trainium.datasheets.deployment import on_system, systems_of, with_cores
from emu.trainium.datasheets.sheet import NeuronCoreSheet
from emu.trainium.datasheets.topology import System
from emu.trainium.datasheets.trn1 import (
    TRN1,
    TRN1_32XLARGE,
    TRN1_SDK_2_21,
    TRN1N_32XLARGE,
)
from emu.trainium.datasheets.trn2 import TRN2, TRN2_48XLARGE, TRN2_ULTRASERVER
from emu.trainium.datasheets.trn3 import TRN3, TRN3_GEN1, TRN3_GEN2

GENERATIONS = given.Named(
    "generation",
    {
        "trn1": TRN1,
        "trn2": TRN2,
        "trn3": TRN3,
    },
)
"""Every generation by the name that command lines take."""

EARLIER = {("aws-neuron-sdk@v2.21.0", TRN1.name): TRN1_SDK_2_21}
"""Release that drove a generation otherwise, as sources name it, to the datasheet of then."""


def as_measured(sheet: Sheet, source: str) -> Sheet:
    """The datasheet that what `source` timed belongs to: `sheet`, or that of an earlier release."""
    for (release, name), earlier in EARLIER.items():
        if release in source and sheet.name == name:
            return earlier
    return sheet


# With every core of a chip running: which of them a program takes is its own affair.
declare_machine(
    "trn",
    [
        with_cores(sheet, sheet.cores_per_chip.value)
        for sheet in reversed(GENERATIONS.values())
    ],
)


def neuroncore_version(device: str) -> int:
    """That of a device by its name: 2 of `trn1`, whose cores are NeuronCore-v2."""
    return GENERATIONS[device].generation


SYSTEMS = (
    TRN1_32XLARGE,
    TRN1N_32XLARGE,
    TRN2_48XLARGE,
    TRN2_ULTRASERVER,
    TRN3_GEN1,
    TRN3_GEN2,
)

__all__ = [
    "EARLIER",
    "GENERATIONS",
    "SYSTEMS",
    "TRN1",
    "TRN1N_32XLARGE",
    "TRN1_32XLARGE",
    "TRN1_SDK_2_21",
    "TRN2",
    "TRN2_48XLARGE",
    "TRN2_ULTRASERVER",
    "TRN3",
    "TRN3_GEN1",
    "TRN3_GEN2",
    "NeuronCoreSheet",
    "System",
    "as_measured",
    "neuroncore_version",
    "on_system",
    "systems_of",
    "with_cores",
]
