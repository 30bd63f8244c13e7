"""Collectives over chips and the cores of each, from one over chips and one over cores.

As the runtime does it over several nodes (SDK, inter-node collectives guide): a gather goes between
chips first and then within them, a reduction the other way round, so that each core sends only its
own part over the links. Ranks count chips first: rank = chip · cores + core.

Example: a gather over 4 chips of 8 cores, 1 MiB on each core. Chips first: every core passes 3
chunks of 1 MiB on around its ring, 24 MiB a chip over the link to the next, and no less would do,
since the 8 MiB of 3 other chips must come in. Were the cores first, each of them would hold 8 MiB
of its chip and send 3 · 8 MiB: 192 MiB a chip over the same link.
"""

from emu.tracing.mesh_axis import axis_size
from emu.trainium.engines.memory import hbm
from emu.trainium.links.chip_collectives import (
    chip_all_gather,
    chip_all_reduce,
    chip_reduce_scatter,
)
from emu.trainium.links.collectives import all_gather, reduce_scatter
from emu.trainium.spaces import Hbm


def all_gather_both(
    dst: Hbm,
    src: Hbm,
    *,
    chip_axis: str,
    core_axis: str,
    chips: tuple[str, ...] | None = None,
) -> Hbm:
    """`dst` on every core of both axes is their `src`, joined in the order of ranks.

    Args:
      dst: HBM `[chips · cores · n, ...]`.
      src: HBM `[n, ...]`.
      chip_axis: mesh axis over chips.
      core_axis: mesh axis over the cores of each.
      chips: every mesh axis over chips, as for `neuronlink.send`.

    Raises:
      LimitExceeded: what `chip_all_gather` and `all_gather` raise.
    """
    number = axis_size("trn.chips", chip_axis)
    cores = axis_size("trn.cores", core_axis)
    # `[chip, core, ...]`: the chips join along the first dimension and the cores along the second,
    # so the order is that of ranks although the chips' data comes first.
    between = hbm(number, 1, *src.shape, dtype=src.dtype)
    between = chip_all_gather(between, src[None, None], axis=chip_axis, chips=chips)
    within = all_gather(dst.reshape(number, cores, *src.shape), between, axis=core_axis)
    return within.reshape(dst.shape)


def reduce_scatter_both(
    dst: Hbm,
    src: Hbm,
    *,
    chip_axis: str,
    core_axis: str,
    chips: tuple[str, ...] | None = None,
) -> Hbm:
    """`dst` on each core of both axes is its rank's part of the sum of all `src`.

    Args:
      dst: HBM `[n, ...]`.
      src: HBM `[chips · cores · n, ...]`, added up over cores in their order, rounded to its dtype,
        then over chips in the order of `chip_reduce_scatter`.
      chip_axis, core_axis, chips: as for `all_gather_both`.

    Raises:
      LimitExceeded: what `chip_reduce_scatter` and `reduce_scatter` raise.
    """
    number = axis_size("trn.chips", chip_axis)
    cores = axis_size("trn.cores", core_axis)
    within = hbm(number, 1, *dst.shape, dtype=dst.dtype)
    # The cores split the second dimension: core c then has the sums of rank `chip · cores + c` for
    # every chip, 1 / cores of the buffer, and only that goes over the links.
    parts = src.reshape(number, cores, *dst.shape)
    within = reduce_scatter(within, parts, axis=core_axis)
    between = chip_reduce_scatter(dst[None, None], within, axis=chip_axis, chips=chips)
    return between.reshape(dst.shape)


def all_reduce_both(
    dst: Hbm,
    src: Hbm,
    *,
    chip_axis: str,
    core_axis: str,
    chips: tuple[str, ...] | None = None,
) -> Hbm:
    """`dst` on every core of both axes is the sum of all `src`.

    Each core adds up its part of the chip's sum, the chips add theirs, and the cores join them.

    Args:
      dst: HBM `[cores · n, ...]`.
      src: HBM, of the same shape; added up as `reduce_scatter_both` does.
      chip_axis, core_axis, chips: as for `all_gather_both`.

    Raises:
      LimitExceeded: what `chip_all_reduce` and `reduce_scatter` raise.
    """
    # Of 8 MiB each of 8 cores brings 1 MiB to the sum over chips; without the cores' own sum first
    # every core would bring all 8.
    part = src.shape[0] // axis_size("trn.cores", core_axis), *src.shape[1:]
    mine = reduce_scatter(hbm(*part, dtype=src.dtype), src, axis=core_axis)
    total = hbm(*part, dtype=src.dtype)
    total = chip_all_reduce(total, mine, axis=chip_axis, chips=chips)
    return all_gather(dst, total, axis=core_axis)


__all__ = ["all_gather_both", "all_reduce_both", "reduce_scatter_both"]
