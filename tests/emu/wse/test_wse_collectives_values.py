"""Collectives as fabric programs against the timeline's instructions: values, wavelets, clock."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from emu import Program, wse
from emu.wse import WSE2, WSE3, trees
from emu.wse.collectives.programs import (
    Code,
    Line,
    everywhere,
    gather,
    multicast,
    rearm,
    reduce,
    ring_all_reduce,
    scatter,
    shift,
)
from emu.wse.fabric import ops, stepper
from emu.wse.fabric.layout.streams import turned
from emu.wse.fabric.program import FabricProgram
from emu.wse.fabric.result import Run
from emu.wse.pe.laws import call_cycles
from emu.wse.timeline.folded_ring import places
from emu.wse.trees import Tree

PES = 12
TREES = {
    "chain": trees.chain(PES),
    "star": trees.star(PES),
    "binary": trees.binary(PES),
    "two-phase": trees.two_phase(PES, 4),
    "two-tree": trees.two_tree(PES, 3),
    "two-tree, stored": trees.two_tree(PES, 3, stores=True),
}
DTYPES = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
SHEETS = pytest.mark.parametrize("sheet", [WSE2, WSE3], ids=lambda s: s.name)
Laid = Callable[[Line, ops.Buffer, ops.Buffer], Code]


def values(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(jnp.dtype(dtype))


def stepped(
    x: np.ndarray, build: Laid, out: int = 1, device: Any = None, **how: Any
) -> Run:
    """Runs a collective on one line; `x` is `[pes, n]`, and `y` has room for `out` elements."""
    device = WSE3.at() if device is None else device
    program = FabricProgram(len(x))
    line, dtype = Line(program), str(x.dtype)
    a, b = program.buffer("x", x.shape[1], dtype), program.buffer("y", out, dtype)
    begins = everywhere(program, ops.Code(call_cycles(device)))
    (begins + build(line, a, b)).declare(program, "main", start=True)
    return stepper.run(program, device, {"x": x[None]}, **how)


def timeline(call: Callable[..., Any]) -> Program:
    return Program(call, {"row": PES}, (("row",),))


def like(x: Any, shape: tuple[int, ...] | None = None) -> Any:
    return wse.sram_tile(shape=x.shape if shape is None else shape, dtype=x.dtype)


def same(got: Any, expected: Any) -> None:
    """Equal bit for bit, NaN where nothing was written included."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got.astype(np.float64), expected.astype(np.float64))


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize(
    ("routes", "op", "dtype"),
    [
        ("turned", "add", "bfloat16"),
        ("fixed", "add", "float32"),
        ("turned", "max", "float32"),
    ],
)
def test_reduce(name: str, routes: str, op: str, dtype: str) -> None:
    """The same partial sums in the same order, each rounded to the tile's dtype."""
    tree, x = TREES[name], values((PES, 6), dtype)

    def build(line: Line, x: ops.Buffer, y: ops.Buffer) -> Code:
        return reduce(line, x[:], tree, "r", routes=routes, op=op)

    got = stepped(x, build).values["x"][0, tree.root]
    program = timeline(lambda x: wse.reduce(like(x), x, axis="row", tree=tree, op=op))
    same(got, np.asarray(program.run(x))[tree.root])


@pytest.mark.parametrize("root", [0, 5, PES - 1])
@DTYPES
def test_broadcast(root: int, dtype: str) -> None:
    x = values((PES, 7), dtype)
    got = stepped(x, lambda line, x, y: multicast(line, x[:], "b", root)).values["x"][0]
    program = timeline(lambda x: wse.multicast(like(x), x, axis="row", root=root))
    same(got, program.run(x))


@pytest.mark.parametrize("by", [1, -1])
def test_shift(by: int) -> None:
    """A PE's number in the mesh is its place in the ring."""
    x, ring = values((PES, 5), "float32"), places(PES)
    line = np.empty_like(x)
    line[ring] = x
    got = stepped(line, lambda line, x, y: shift(line, y[:], x[:], "s", by), 5).values[
        "y"
    ][0]
    program = timeline(lambda x: wse.shift(like(x), x, axis="row", by=by))
    same(got[ring], program.run(x))


@DTYPES
def test_ring_all_reduce(dtype: str) -> None:
    x = values((PES, 2 * PES), dtype)
    got = stepped(x, lambda line, x, y: ring_all_reduce(line, x, "r")).values["x"][0]
    program = timeline(lambda x: wse.ring_all_reduce(like(x), x, axis="row"))
    same(got, program.run(x))


def test_gather_and_scatter() -> None:
    x = values((PES, 3), "float32")
    got = stepped(x, lambda line, x, y: gather(line, y, x[:], "g"), 3 * PES).values[
        "y"
    ][0]
    program = timeline(lambda x: wse.gather(like(x, (PES, 3)), x, axis="row"))
    same(got[0].reshape(PES, 3), np.asarray(program.run(x))[0])
    x = values((PES, 3 * PES), "float32")
    got = stepped(x, lambda line, x, y: scatter(line, y[:], x, "s"), 3).values["y"][0]
    program = timeline(
        lambda x: wse.scatter(like(x, (3,)), x.reshape(PES, 3), axis="row")
    )
    same(got, program.run(x))


# --- wavelets and clock ---


@pytest.mark.parametrize("name", TREES)
def test_wavelets_on_links(name: str) -> None:
    """The timeline's, and one control wavelet's way to its receiver for each router turned."""
    tree, x = TREES[name], values((PES, 6), "float32")
    program = timeline(lambda x: wse.reduce(like(x), x, axis="row", tree=tree))
    expected = program.read(WSE3.at(), x).tally.by("other")["wavelet_hops"]
    for routes in ("turned", "fixed"):
        run = stepped(
            x,
            lambda line, x, y: reduce(line, x[:], tree, "r", routes=routes),
            links=True,
        )
        assert run.links is not None
        turns = [h for h, t in zip(tree.hops, turned(tree, "r").turn, strict=True) if t]
        controls = sum(turns) if routes == "turned" else 0
        assert run.links[:4].sum() == expected + controls


@SHEETS
def test_clock_of_the_whole_call(sheet: Any) -> None:
    """Role and set-up included: the timeline's end is the stepper's, to the cycle."""
    device, x, ring = sheet.at(), values((PES, 2 * PES), "float32"), places(PES)
    pairs: list[tuple[Laid, Callable[[Any], Any]]] = [
        (
            lambda line, x, y: reduce(line, x[:], trees.chain(PES), "r"),
            lambda x: wse.reduce(like(x), x, axis="row"),
        ),
        (
            lambda line, x, y: multicast(line, x[:], "b", 5),
            lambda x: wse.multicast(like(x), x, axis="row", root=5),
        ),
        (
            lambda line, x, y: shift(line, y[:], x[:], "s"),
            lambda x: wse.shift(like(x), x, axis="row", by=1),
        ),
        (
            lambda line, x, y: ring_all_reduce(line, x, "r"),
            lambda x: wse.ring_all_reduce(like(x), x, axis="row"),
        ),
    ]
    for build, call in pairs:
        run = stepped(x, build, x.shape[1], device, path="cycles")
        assert timeline(call).read(device, x).end_ticks == run.cycles
    assert sorted(ring) == list(range(PES))


# --- together ---


def all_reduce(line: Line, x: ops.Memory, tree: Tree, prefix: str) -> Code:
    return reduce(line, x, tree, f"{prefix}r") + multicast(
        line, x, f"{prefix}b", tree.root
    )


def test_a_product_along_rows_and_columns() -> None:
    """Broadcast down, multiply, all-reduce along: `y = W^T x` by blocks, in float64 beside it."""
    height, width, n, m = 3, 4, 5, 6
    rng = np.random.default_rng(1)
    weights, x = (
        rng.standard_normal((height, width, n, m)),
        rng.standard_normal((width, n)),
    )
    program = FabricProgram(width, height)
    a, w = program.buffer("x", n), program.buffer("w", n * m)
    y = program.buffer("y", m)
    work = [ops.copy(y[:], 0.0), ops.Map(y[:], w[:], a[:])]
    total = multicast(Line(program, "y"), a[:], "down") + everywhere(program, *work)
    total += all_reduce(Line(program, "x"), y[:], trees.two_tree(width, 2), "")
    total.declare(program, "main", start=True)
    data = {
        "x": np.where(np.arange(height)[:, None, None] == 0, x, np.nan),
        "w": weights.reshape(height, width, n * m),
    }
    got = stepper.run(program, WSE3.at(), data).values["y"]
    expected = np.einsum("hwnm,wn->hm", weights, x)
    np.testing.assert_allclose(
        got, np.broadcast_to(expected[:, None], got.shape), rtol=1e-5
    )


def test_turned_routes_serve_again_once_rearmed() -> None:
    x, tree = values((PES, 4), "float32"), trees.two_tree(PES, 3)

    def build(line: Line, x: ops.Buffer, y: ops.Buffer) -> Code:
        once = all_reduce(line, x[:], tree, "")
        again = Code(once.which, once.sequences)
        return once + rearm(line, tree, "r") + again

    got = stepped(x, build).values["x"][0]
    np.testing.assert_allclose(got, np.broadcast_to(PES * x.sum(0), x.shape), rtol=1e-4)


def test_groups_of_a_line_do_the_same() -> None:
    x = values((PES, 4), "float32")

    def build(line: Line, x: ops.Buffer, y: ops.Buffer) -> Code:
        thirds = Line(line.program, "x", group=4, backwards=True)
        return reduce(thirds, x[:], trees.two_phase(4, 2), "r")

    got = stepped(x, build).values["x"][0, 3::4]
    np.testing.assert_allclose(got, x.reshape(3, 4, 4).sum(1), rtol=1e-5)
