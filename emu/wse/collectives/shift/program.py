"""A cyclic shift on a ring folded onto a line: every PE sends, and takes what comes."""

from emu import given
from emu.wse.fabric.layout.code import Code
from emu.wse.fabric.layout.folded_ring import Step, round_the_ring
from emu.wse.fabric.layout.line import Line
from emu.wse.fabric.ops import Fabric, Memory, Vector, copy


def shift(
    line: Line,
    dst: Memory,
    x: Memory,
    prefix: str,
    by: int = 1,
    *,
    threads: tuple[int, int] | None = None,
    activate: str | None = None,
) -> Code:
    """Place `i` of the ring gets in `dst` the `x` of place `i - by`, `by` being 1 or -1.

    Args:
      line: of PEs; all hold `dst` and `x`.
      dst, x: apart from one another.
      prefix: of the names of its colors.
      by: how far.
      threads: microthreads of the send and of the receive, which then go on beside the main thread
        and each other; None is one after the other on the main thread.
      activate: with threads, the task that the receive's end activates.
    """
    if by not in (1, -1):
        given.refuse(f"shift: by is {by!r}, must be 1 or -1; shift again for more")
    if threads is not None and not (isinstance(threads, tuple) and len(threads) == 2):
        given.refuse(
            f"shift: threads is {given.told(threads)}, must be two, of the send and of the receive"
        )
    if activate is not None and threads is None:
        given.refuse(
            f"shift: activates '{activate}' but runs on the main thread; give it "
            "threads, or go on behind it"
        )
    send_thread, receive_thread = threads or (None, None)

    def take(stream: Fabric) -> Vector:
        return copy(dst, stream, thread=receive_thread, activate=activate)

    def steps(place: int) -> list[Step]:
        return [(x, take)]

    return round_the_ring(line, prefix, by, steps, send_thread)


__all__ = ["shift"]
