"""The clock of a program by another way into its region: by one way, and both ways alone.

A program of a layer or the head begins with the residual stream's way in, with all PEs idle, and
nothing in it can begin before: by a way that brings the activation 160 cycles later to every PE,
everything is 160 cycles later. So of a kind of layers one program is read, and of each way in only
the arrival, by the same instruction; 61 layers on as many wafers, some of which follow each other
on one, are one reading of seconds and two of milliseconds. Tests hold the sum to the whole program.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import ShapeDtypeStruct

from emu.annotations import KnownInt
from emu.clock.reading import Reading
from emu.clock.tally import Tally
from emu.clock.ticks import Ticks
from emu.program import Known, Program
from emu.wse.spaces import Sram
from kernels.wse.decode.arrive import arrive
from kernels.wse.decode.mapping import HeadMap, LayerMap


def way_program(of: LayerMap | HeadMap, crosses: bool) -> Program:
    """The way into a region alone: arguments `residual` `[rows, depth]` and `gap`."""

    def kernel(residual: Sram, gap: KnownInt) -> Sram:
        return arrive(residual, gap, crosses)

    return Program(kernel, of.mesh, (("row",), ()))


def way_arguments(of: LayerMap | HeadMap, hops: int) -> tuple[Any, ...]:
    """Shapes in place of data for `way_program(of, crosses).read`."""
    residual = ShapeDtypeStruct((of.rows, of.depth), jnp.dtype("float32"))
    return residual, Known(jnp.int32(hops))


def by_way(read: Reading, own: Reading, other: Reading) -> Reading:
    """What a program's reading is by another way in.

    Args:
      read: of the program.
      own: of the way alone by which it was read.
      other: of the other way alone.
    """
    spent = {
        key: _moved(*(each.spent.get(key, 0) for each in (read, own, other)))
        for key in {**read.spent, **other.spent}
    }
    sums = dict(read.tally.sums)
    for each, sign in ((own, -1), (other, 1)):
        for key, counted in each.tally.sums.items():
            sums[key] = sums.get(key, 0) + sign * counted
    last = {
        engine: _moved(ticks, own.last[engine], other.last[engine])
        for engine, ticks in read.last.items()
    }
    return dataclasses.replace(
        read,
        end=_moved(read.end, own.end, other.end),
        last=last,
        spent=spent,
        tally=Tally({key: counted for key, counted in sums.items() if counted}),
    )


def _moved(ticks: Ticks, own: Ticks, other: Ticks) -> Ticks:
    """Ticks of every PE, by as many more as the other way takes, which must be as many on all."""
    later = np.unique(np.asarray(other) - np.asarray(own))
    if later.size != 1:
        raise ValueError(
            f"ways into a region differ by {later.min()} to {later.max()} ticks, must by as many "
            "on all PEs; read the program itself by that way"
        )
    return ticks + int(later[0])


__all__ = ["by_way", "way_arguments", "way_program"]
