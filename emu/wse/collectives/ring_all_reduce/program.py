"""All-reduce chunk by chunk round a ring: what each place sends, adds and copies, step by step.

Of three places, in each step the chunk that is sent and, behind it, the one to which what comes is
added (steps 0 and 1) or which it replaces (steps 2 and 3):

    step   place 0    place 1    place 2
    0      2, + 1     0, + 2     1, + 0
    1      1, + 0     2, + 1     0, + 2
    2      0, = 2     1, = 0     2, = 1
    3      2, = 1     0, = 2     1, = 0
"""

from emu import given
from emu.wse.fabric.layout.code import Code
from emu.wse.fabric.layout.folded_ring import Step, round_the_ring
from emu.wse.fabric.layout.line import Line
from emu.wse.fabric.ops import Buffer, Fabric, Memory, Vector, copy


def ring_all_reduce(line: Line, x: Buffer, prefix: str, op: str = "add") -> Code:
    """Every PE's `x` becomes the sum of all.

    It is cut into a chunk for each PE. Chunk c starts one place beyond place c, goes round once
    and is added to at every place, and goes round again as it is.

    Args:
      line: of PEs; all hold `x`.
      x: what each PE adds, of a multiple of the line's PEs.
      prefix: of the names of its colors, for this all-reduce alone.
      op: `"add"` or `"max"`.
    """
    pes = line.pes
    if x.elements % pes:
        given.refuse(
            f"ring_all_reduce: '{x.name}' has {x.elements} elements, must be a multiple of the "
            f"ring's {pes} PEs; pad it"
        )
    size = x.elements // pes

    def chunk(number: int) -> Memory:
        first = number % pes * size
        return x[first : first + size]

    def step(place: int, nth: int) -> Step:
        sent = chunk(place - 1 - nth)
        came = chunk(place - 2 - nth)

        def add(stream: Fabric) -> Vector:
            return Vector(op, came, stream, came)

        def keep(stream: Fabric) -> Vector:
            return copy(came, stream)

        first_round = nth < pes - 1
        return sent, add if first_round else keep

    def steps(place: int) -> list[Step]:
        return [step(place, nth) for nth in range(2 * (pes - 1))]

    return round_the_ring(line, prefix, 1, steps)


__all__ = ["ring_all_reduce"]
