"""Fabric programs by name, with their sizes: one collective each, a GEMV, a GEMM and a send."""

from collections.abc import Callable
from typing import Any

from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.wse import trees
from emu.wse.collectives import programs
from emu.wse.collectives.programs import Code, Line
from emu.wse.fabric.ops import Memory
from emu.wse.fabric.program import FabricProgram
from emu.wse.trees import auto
from kernels.wse.programs import mesh_gemm, microbench
from kernels.wse.programs.line_reduce import line_reduce
from kernels.wse.programs.wafer_gemv import WaferGemv, fabric_program

TREES = ("chain", "star", "binary", "two_phase", "two_tree", "auto")


def _tree(name: str, pes: int, words: int, device: Device) -> trees.Tree:
    root = max(1, round(pes**0.5))
    made: dict[str, Callable[[], trees.Tree]] = {
        "chain": lambda: trees.chain(pes),
        "star": lambda: trees.star(pes),
        "binary": lambda: trees.binary(pes),
        "two_phase": lambda: trees.two_phase(pes, root),
        "two_tree": lambda: trees.two_tree(pes, root),
        "auto": lambda: auto(pes, words, device),
    }
    if name not in made:
        raise LimitExceeded(f"tree is {name!r}, must be one of {', '.join(TREES)}")
    return made[name]()


def _on_a_line(
    pes: int, words: int, what: Callable[[Line, Memory], Code]
) -> FabricProgram:
    """Every PE of a line holds `x` of `words` float32 and starts in cycle 0."""
    program = FabricProgram(pes)
    what(Line(program), program.buffer("x", words)[:]).declare(
        program, "main", start=True
    )
    return program


def reduce(
    device: Device, pes: int = 64, words: int = 256, tree: str = "two_phase"
) -> Any:
    """The sum over a line of PEs, at the tree's root; tree: see `TREES`."""
    return line_reduce(_tree(tree, pes, words, device), words)


def all_reduce(
    device: Device, pes: int = 64, words: int = 256, tree: str = "two_tree"
) -> Any:
    """A reduce to the tree's root, and a broadcast from there."""
    made = _tree(tree, pes, words, device)
    return _on_a_line(
        pes,
        words,
        lambda line, x: (
            programs.reduce(line, x, made, "sum")
            + programs.multicast(line, x, "out", made.root)
        ),
    )


def ring_all_reduce(pes: int = 16, words: int = 256) -> Any:
    """All-reduce round a ring folded onto a line, chunk by chunk."""
    program = FabricProgram(pes)
    made = programs.ring_all_reduce(Line(program), program.buffer("x", words), "ring")
    made.declare(program, "main", start=True)
    return program


def broadcast(pes: int = 64, words: int = 256, root: int = 0) -> Any:
    """One PE's words to all of its line."""
    return _on_a_line(
        pes, words, lambda line, x: programs.multicast(line, x, "out", root)
    )


def broadcast_2d(width: int = 40, height: int = 60, words: int = 64) -> Any:
    """One PE's words to a whole rectangle, as one stream."""
    program = FabricProgram(width, height)
    made = programs.multicast_2d(program, program.buffer("x", words)[:], "out")
    made.declare(program, "main", start=True)
    return program


def reduce_2d(
    device: Device,
    width: int = 40,
    height: int = 60,
    words: int = 64,
    tree: str = "two_phase",
) -> Any:
    """The sum over a rectangle: along the rows, then along the column of their roots."""
    program = FabricProgram(width, height)
    rows, column = (_tree(tree, n, words, device) for n in (width, height))
    made = programs.reduce_2d(
        program, program.buffer("x", words)[:], rows, column, "sum"
    )
    made.declare(program, "main", start=True)
    return program


def gather(pes: int = 16, words: int = 16) -> Any:
    """Every PE's block to the first one of its line."""
    program = FabricProgram(pes)
    x = program.buffer("x", words)
    all_ = program.buffer("all", pes * words)
    programs.gather(Line(program), all_, x[:], "in").declare(
        program, "main", start=True
    )
    return program


def gemv(
    device: Device, k: int = 1024, n: int = 1024, rows: int = 32, cols: int = 32
) -> Any:
    """`y = x @ w` over a rectangle: broadcast along rows, multiply, reduce along columns."""
    return fabric_program(WaferGemv(k, n, rows, cols), device)


def gemm(device: Device, p: int = 4, tile: int = 8) -> Any:
    """MeshGEMM on `p` x `p` PEs with square tiles: microthreads move, tasks start one another."""
    return mesh_gemm.mesh_gemm(device, mesh_gemm.Sizes(p, tile, tile, tile))


def send(words: int = 8, hops: int = 4) -> Any:
    """A microthread's send, whose arrival starts a task some hops away."""
    return microbench.one_way(words, hops)


FABRIC_PROGRAMS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        reduce,
        all_reduce,
        ring_all_reduce,
        broadcast,
        broadcast_2d,
        reduce_2d,
        gather,
        gemv,
        gemm,
        send,
    )
}

__all__ = ["FABRIC_PROGRAMS", "TREES"]
