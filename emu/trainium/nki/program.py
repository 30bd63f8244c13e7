"""A recorded kernel as a program: its cores are the mesh axis `nc`, its arguments are whole."""

from collections.abc import Mapping

import numpy as np

from emu.program import Program
from emu.trainium.nki import rings
from emu.trainium.nki.lower import CORES, lower
from emu.trainium.nki.tree import Recorded, Tensor


def program(
    recorded: Recorded,
    *,
    depths: Mapping[Tensor, int] | None = None,
    depth: int = rings.DEPTH,
) -> Program:
    """The program of a recorded kernel, to be run and read.

    Every core is given all of the inputs, and a result has a leading dimension of cores: `values`
    puts together what they wrote.

    Args:
      recorded: the kernel.
      depths: buffers of some tensors' rings; None has those that passes chose.
      depth: of all other rings.
    """
    cores = 1 if recorded.cores is None else recorded.cores.count
    kernel = lower(recorded, depths=depths, depth=depth)
    return Program(kernel, {CORES: cores}, ((),) * len(recorded.inputs))


def values(recorded: Recorded, results: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    """What a kernel returns, of what `Program.run` gave for each of its cores.

    Args:
      recorded: the kernel.
      results: of each output `[cores, *shape]`.
    """
    owners = recorded.owners or (None,) * len(results)
    return [
        _joined(np.asarray(each), own)
        for each, own in zip(results, owners, strict=True)
    ]


def _joined(by_core: np.ndarray, owner: np.ndarray | None) -> np.ndarray:
    """Of each element what the core holds that wrote it last; the first core's if none did."""
    if owner is None:
        return by_core[0]
    joined = by_core[0].copy()
    for core in range(1, len(by_core)):
        joined = np.where(owner == core, by_core[core], joined)
    return joined


__all__ = ["program", "values"]
