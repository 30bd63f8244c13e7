"""How many bytes a tree moves between HBM and the chip."""

import dataclasses
import math
from collections.abc import Sequence

from emu.trainium.nki.passes.rewrite import turns
from emu.trainium.nki.tree import Access, Node, walk


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Bytes from and to HBM, all turns of all loops."""

    read_bytes: int = 0
    write_bytes: int = 0


def traffic(body: Sequence[Node]) -> Traffic:
    """What a body reads from HBM and writes there."""
    read_bytes = write_bytes = 0
    for operation, path in walk(list(body)):
        times = turns(path)
        reads = (each for each in operation.reads if isinstance(each, Access))
        read_bytes += times * sum(_hbm_bytes(each) for each in reads)
        write_bytes += times * sum(_hbm_bytes(each) for each in operation.writes)
    return Traffic(read_bytes, write_bytes)


def _hbm_bytes(access: Access) -> int:
    if access.space != "hbm":
        return 0
    return math.prod(access.shape) * access.dtype.itemsize


def change(before: Traffic, after: Traffic, otherwise: str) -> str:
    """In words what became of the traffic; `otherwise` where nothing did."""
    parts: list[str] = []
    pairs = (
        ("reads", before.read_bytes, after.read_bytes),
        ("writes", before.write_bytes, after.write_bytes),
    )
    for what, old, new in pairs:
        if old != new:
            parts.append(f"HBM {what} {_megabytes(old)} -> {_megabytes(new)} MB")
    return ", ".join(parts) or otherwise


def _megabytes(nbytes: int) -> str:
    return f"{nbytes / 1e6:,.1f}" if nbytes < 100e6 else f"{nbytes / 1e6:,.0f}"


__all__ = ["Traffic", "change", "traffic"]
