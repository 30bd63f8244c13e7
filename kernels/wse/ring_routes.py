"""A ring on a line of PEs in which nobody is more than two hops from the next.

Even places are visited one way and odd ones back (WaferLLM, arXiv 2502.04563): a PE sends to the
place two further on, through the router between, and the two ends turn the ring round. Three colors
serve: the one a PE sends on, the one it receives on, and the one that passes it by.
"""

from typing import Any

from emu.wse.program import FabricProgram

COLORS = 3
TOWARDS = {"row": ("west", "east"), "column": ("north", "south")}


def order(p: int) -> list[int]:
    """Places of a line of `p` in the order of the ring."""
    return [*range(0, p, 2), *reversed(range(1, p, 2))]


def sent_on(place: int, p: int) -> int:
    """The color, of three, on which a place sends to the next of the ring."""
    if place % 2:
        return (place + 1) % COLORS
    return (place + (2 if place == p - 1 else 0)) % COLORS


def route(
    program: FabricProgram, prefix: str, axis: str, line: int, *, backwards: bool = False
) -> list[tuple[str, str]]:
    """Routes one line's ring; returns the colors on which each place sends and receives.

    Args:
      program: whose routes are set.
      prefix: of the names of its three colors.
      axis: `"row"`, a line along x, or `"column"`, one along y.
      line: which row or column.
      backwards: every place sends to the one before it.
    """
    p = program.width if axis == "row" else program.height
    ring = order(p)
    sends, receives = {}, {}
    for here, there in zip(ring, ring[1:] + ring[:1], strict=True):
        color = f"{prefix}{sent_on(here, p)}"
        source, sink = (there, here) if backwards else (here, there)
        sends[source] = receives[sink] = color
        _stream(program, color, axis, line, source, sink)
    return [(sends[i], receives[i]) for i in range(p)]


def _stream(
    program: FabricProgram, color: str, axis: str, line: int, source: int, sink: int
) -> None:
    """From one place to another, one or two hops away."""
    back, ahead = TOWARDS[axis] if sink > source else TOWARDS[axis][::-1]

    def at(place: int) -> Any:
        return (line, place) if axis == "row" else (place, line)

    program.route(color, at(source), receive="ramp", send=ahead)
    if abs(sink - source) == 2:
        program.route(color, at((source + sink) // 2), receive=back, send=ahead)
    program.route(color, at(sink), receive=back, send="ramp")


__all__ = ["COLORS", "order", "route", "sent_on"]
