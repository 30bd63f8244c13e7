"""Fabric programs by name, with their sizes: one collective each, a GEMV, a GEMM and a send."""

from collections.abc import Callable

from emu import given
from emu.datasheet import Device
from emu.wse import trees
from emu.wse.collectives import programs
from emu.wse.collectives.programs import Code, Line
from emu.wse.datasheets.datasheet import WSE2, WSE3
from emu.wse.fabric.ops import Memory
from emu.wse.fabric.program import FabricProgram
from emu.wse.trees import auto
from kernels.wse.programs import mesh_gemm, microbench
from kernels.wse.programs.line_reduce import line_reduce
from kernels.wse.programs.wafer_gemv import WaferGemv, fabric_program

TREES = ("chain", "star", "binary", "two_phase", "two_tree", "auto")


def _tree(name: str, pes: int, words: int, device: Device) -> trees.Tree:
    _check_sizes(pes=pes, words=words)
    given.one_of("tree", name, TREES)
    square_root = max(1, round(pes**0.5))
    made: dict[str, Callable[[], trees.Tree]] = {
        "chain": lambda: trees.chain(pes),
        "star": lambda: trees.star(pes),
        "binary": lambda: trees.binary(pes),
        "two_phase": lambda: trees.two_phase(pes, square_root),
        "two_tree": lambda: trees.two_tree(pes, square_root),
        "auto": lambda: auto(pes, words, device),
    }
    return made[name]()


WIDTH = max(sheet.grid_width.value for sheet in (WSE2, WSE3))
HEIGHT = max(sheet.grid_height.value for sheet in (WSE2, WSE3))
# PEs along a side, by the parameter that counts them: refused before a program of as many is made.
SIDES = {
    "pes": WIDTH,
    "width": WIDTH,
    "cols": WIDTH,
    "hops": WIDTH - 1,
    "height": HEIGHT,
    "rows": HEIGHT,
    "p": min(WIDTH, HEIGHT),
}
MOST = 2**31 - 1  # of words and the like; what an SRAM holds is told once it is known


def _check_sizes(**sizes: int) -> None:
    """Counts of PEs, words and the like, each under its own name."""
    for name, size in sizes.items():
        given.whole(name, size, 1, SIDES.get(name, MOST))


def _on_a_line(
    pes: int,
    words: int,
    code_of: Callable[[Line, Memory], Code],
) -> FabricProgram:
    """Every PE of a line holds `x` of `words` float32 and starts in cycle 0."""
    _check_sizes(pes=pes, words=words)
    program = FabricProgram(pes)
    x = program.buffer("x", words)
    code = code_of(Line(program), x[:])
    code.declare(program, "main", start=True)
    return program


def reduce(
    device: Device,
    pes: int = 64,
    words: int = 256,
    tree: str = "two_phase",
) -> FabricProgram:
    """The sum over a line of PEs, at the tree's root; tree: see `TREES`."""
    return line_reduce(_tree(tree, pes, words, device), words)


def all_reduce(
    device: Device,
    pes: int = 64,
    words: int = 256,
    tree: str = "two_tree",
) -> FabricProgram:
    """A reduce to the tree's root, and a broadcast from there."""
    made = _tree(tree, pes, words, device)

    def code_of(line: Line, x: Memory) -> Code:
        adds = programs.reduce(line, x, made, "sum")
        return adds + programs.multicast(line, x, "out", made.root)

    return _on_a_line(pes, words, code_of)


def ring_all_reduce(pes: int = 16, words: int = 256) -> FabricProgram:
    """All-reduce round a ring folded onto a line, chunk by chunk."""
    _check_sizes(pes=pes, words=words)
    program = FabricProgram(pes)
    x = program.buffer("x", words)
    code = programs.ring_all_reduce(Line(program), x, "ring")
    code.declare(program, "main", start=True)
    return program


def broadcast(pes: int = 64, words: int = 256, root: int = 0) -> FabricProgram:
    """One PE's words to all of its line."""

    def code_of(line: Line, x: Memory) -> Code:
        return programs.multicast(line, x, "out", root)

    return _on_a_line(pes, words, code_of)


def broadcast_2d(width: int = 40, height: int = 60, words: int = 64) -> FabricProgram:
    """One PE's words to a whole rectangle, as one stream."""
    _check_sizes(width=width, height=height, words=words)
    program = FabricProgram(width, height)
    x = program.buffer("x", words)
    code = programs.multicast_2d(program, x[:], "out")
    code.declare(program, "main", start=True)
    return program


def reduce_2d(
    device: Device,
    width: int = 40,
    height: int = 60,
    words: int = 64,
    tree: str = "two_phase",
) -> FabricProgram:
    """The sum over a rectangle: along the rows, then along the column of their roots."""
    _check_sizes(width=width, height=height, words=words)
    program = FabricProgram(width, height)
    x = program.buffer("x", words)
    along_rows = _tree(tree, width, words, device)
    along_column = _tree(tree, height, words, device)
    code = programs.reduce_2d(program, x[:], along_rows, along_column, "sum")
    code.declare(program, "main", start=True)
    return program


def gather(pes: int = 16, words: int = 16) -> FabricProgram:
    """Every PE's block to the first one of its line."""
    _check_sizes(pes=pes, words=words)
    program = FabricProgram(pes)
    x = program.buffer("x", words)
    blocks = program.buffer("all", pes * words)
    code = programs.gather(Line(program), blocks, x[:], "in")
    code.declare(program, "main", start=True)
    return program


def gemv(
    device: Device,
    k: int = 1024,
    n: int = 1024,
    rows: int = 32,
    cols: int = 32,
) -> FabricProgram:
    """`y = x @ w` over a rectangle: broadcast along rows, multiply, reduce along columns."""
    _check_sizes(rows=rows, cols=cols, k=k, n=n)
    sizes = WaferGemv(k, n, rows, cols)
    return fabric_program(sizes, device)


def gemm(device: Device, p: int = 4, tile: int = 8) -> FabricProgram:
    """MeshGEMM on `p` x `p` PEs with square tiles: microthreads move, tasks start one another."""
    _check_sizes(p=p, tile=tile)
    sizes = mesh_gemm.Sizes(p, tile, tile, tile)
    return mesh_gemm.mesh_gemm(device, sizes)


def send(words: int = 8, hops: int = 4) -> FabricProgram:
    """A microthread's send, whose arrival starts a task some hops away."""
    _check_sizes(hops=hops, words=words)
    return microbench.one_way(words, hops)


_PROGRAMS: dict[str, Callable[..., FabricProgram]] = {
    function.__name__: function
    for function in (
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
FABRIC_PROGRAMS = given.Named("fabric program", _PROGRAMS)

__all__ = ["FABRIC_PROGRAMS", "TREES"]
