"""Views of tiles: a view names part of a tile, and moves nothing from one partition to another."""

import dataclasses

import numpy as np

from emu.checks.held import Held, evaluated
from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.tracing import jaxpr as jx


def viewed(device: Device, eqn: jx.Equation, operands: list[Held]) -> Held:
    """What is known of a view.

    Raises:
      LimitExceeded: its rows are not rows of the tile.
    """
    held, *addresses = operands
    known = evaluated(eqn, operands) if held.integer else None
    if held.space not in device.partitioned:
        return dataclasses.replace(held, known=known)
    old = eqn.invars[0].aval.shape
    new = eqn.outvars[0].aval.shape
    name = eqn.primitive.name
    if held.stacks:
        return _of_stack(eqn, held, old, new)
    if not _keeps_partitions(eqn, old, new):
        instead = device.sheet.instead.get(name)
        cure = "" if instead is None else f": {instead}"
        raise LimitExceeded(
            f"{name}: a view of a tile in {held.space} keeps its partitions, dimension 0, and "
            f"cannot make {list(new)} of {list(old)}{cure}",
            jx.location(eqn),
        )
    later = _partitions_later(eqn, old, new, addresses)
    start = None
    if held.start is not None and later is not None:
        start = held.start + later
    return dataclasses.replace(held, start=start, known=known)


def _of_stack(
    eqn: jx.Equation, held: Held, old: tuple[int, ...], new: tuple[int, ...]
) -> Held:
    """A view of a stack of tiles: some of the tiles, or one of them.

    Example: four tiles of `[128, 512]` that a loop gave are `[4, 128, 512]`. `[2:3]` of it is a
    stack of one, `[1, 128, 512]`, and what that is without its first dimension is a tile.
    """
    name = eqn.primitive.name
    where = held.stacks
    if name == "squeeze":
        gone = [dim for dim in eqn.params["dimensions"] if dim <= where]
        if where not in gone:
            return dataclasses.replace(held, stacks=where - len(gone))
    elif name in ("slice", "dynamic_slice") and new[where] == old[where]:
        return held
    raise LimitExceeded(
        f"{name}: cannot make {list(new)} of {list(old)}, a stack of tiles in {held.space}: take "
        "a tile of it first, `stack[i]`",
        jx.location(eqn),
    )


def _keeps_partitions(
    eqn: jx.Equation, old: tuple[int, ...], new: tuple[int, ...]
) -> bool:
    """Whether each row of the view is, or is part of, one row of the tile."""
    if not old or not new:
        return False
    name = eqn.primitive.name
    params = eqn.params
    if name == "slice":
        strides = params["strides"]
        # Every second partition is no range of them.
        return strides is None or strides[0] == 1 or new[0] == 1
    if name == "dynamic_slice":
        return True
    if new[0] != old[0]:
        return False
    if name == "broadcast_in_dim":
        first, *_ = params["broadcast_dimensions"]
        return first == 0
    if name == "squeeze":
        return 0 not in params["dimensions"]
    # Row by row: `[128, 64]` as `[128, 2, 32]` is in every partition what it was.
    return True


def _partitions_later(
    eqn: jx.Equation,
    old: tuple[int, ...],
    new: tuple[int, ...],
    addresses: list[Held],
) -> int | None:
    """By how many partitions the view begins later than the tile; None if not known here."""
    name = eqn.primitive.name
    if name == "slice":
        return eqn.params["start_indices"][0]
    if name != "dynamic_slice" or new[0] == old[0]:
        return 0
    known = addresses[0].known
    if known is None:
        return None
    # As XLA does: a slice that would leave the tile begins earlier.
    return int(np.clip(known.item(), 0, old[0] - new[0]))


__all__ = ["viewed"]
