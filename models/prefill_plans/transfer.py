"""Hidden states from one stage to the next: over the system's links, or by EFA to another rack.

Every chip has one chip of the next stage to send its tokens to. Within a rack its cores send an
equal part each over the links that all transfers share; between racks its NIC sends them in
operations, at the lesser of the line's rate and the operations' (`emu.interconnect.send`).
"""

import functools
import math
from collections.abc import Sequence
from fractions import Fraction

import jax
import jax.numpy as jnp

from emu.efa import LinkSheet
from emu.interconnect import Entry, Message, send
from emu.program import Program
from emu.trainium import with_cores
from emu.trainium.datasheets import NeuronCoreSheet
from emu.trainium.engines.memory import hbm
from emu.trainium.links import neuronlink
from emu.trainium.spaces import Hbm

STAGE, CHIP, CORE = "stage", "chip", "core"  # mesh axes


def between_chips(
    sheet: NeuronCoreSheet,
    nbytes: int,
    *,
    ring: int,
    stages: int,
    cores: int,
    bands: Sequence[str],
) -> dict[str, float]:
    """Seconds by band in which every stage of a rack but the last sends to the next, all at once.

    Args:
      sheet: of the chip, in its system.
      nbytes: of each chip.
      ring, stages, cores: chips of a stage, stages of a rack, cores of a chip.
      bands: to be read.
    """
    program = _program(ring, stages, cores)
    part = jax.ShapeDtypeStruct(
        (stages, ring, cores, math.ceil(nbytes / cores)), jnp.uint8
    )
    read = program.read_bands(with_cores(sheet, cores), part, bands=bands)
    return {band: reading.seconds for band, reading in read.items()}


@functools.lru_cache(maxsize=32)
def _program(ring: int, stages: int, cores: int) -> Program:
    axes = (STAGE, CHIP, CORE)

    def kernel(x: Hbm) -> Hbm:
        arrived = hbm(*x.shape, dtype=x.dtype)
        has_next = jax.lax.axis_index(STAGE) < stages - 1
        return neuronlink.send(arrived, x, 1, has_next, axis=STAGE, chips=(STAGE, CHIP))

    return Program(kernel, {STAGE: stages, CHIP: ring, CORE: cores}, (axes,))


def between_racks(
    link: LinkSheet, nbytes: int, bands: Sequence[str]
) -> dict[str, float]:
    """Seconds by band in which a chip has sent to a chip of another rack.

    The NIC that receives takes bytes in as the one that sends lets them out.
    """
    arrives = (Entry((0, 0), nbytes),)
    found: dict[str, float] = {}
    for band in bands:
        device = link.at(band)
        operations = math.ceil(nbytes / device.operation_bytes)
        message = Message(Fraction(0), 0, nbytes, operations, arrives)
        found[band] = float(send(device, [message]).finished_s)
    return found


__all__ = ["between_chips", "between_racks"]
