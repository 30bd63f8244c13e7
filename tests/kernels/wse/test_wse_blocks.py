"""The parts of a layer on a small region, each against float64 NumPy and its own clock."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu import Known, Program
from emu.wse import WSE3, multicast, reduce, trees
from kernels.wse.decode.attention import attend, normalise_heads
from kernels.wse.decode.blocks import gemv, rms_norm, swiglu
from kernels.wse.decode.mapping import LayerMap, line_groups
from kernels.wse.decode.sums import all_reduce, reduce_to_first

WAFER = WSE3.at()
PE = ("row", "col")


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def small(rows: int = 4, parts: int = 2, **changes: Any) -> LayerMap:
    sizes: dict[str, Any] = dict(
        hidden=10,
        ffn=14,
        heads=4,
        kv_heads=2,
        head_dim=8,
        eps=1e-5,
        qk_norm=False,
        context=11,
    )
    return LayerMap(rows=rows, parts=parts, **(sizes | changes))


@pytest.mark.parametrize(
    ("pes", "groups"), [(6, 1), (11, 1), (12, 3), (48, 6), (64, 8), (97, 9)]
)
def test_groups_are_near_the_square_root(pes: int, groups: int) -> None:
    assert line_groups(pes) == groups


@pytest.mark.parametrize("pes", [5, 12, 16])
@pytest.mark.parametrize("op", ["add", "max"])
def test_all_reduce(pes: int, op: str) -> None:
    x = normal(pes, pes, 3)
    program = Program(lambda x: all_reduce(x, "row", op=op), {"row": pes}, (("row",),))
    wide = x.astype(np.float64)
    expected = wide.sum(0) if op == "add" else wide.max(0)
    got = np.asarray(program.run(x))
    assert (got == got[:1]).all()
    np.testing.assert_allclose(got[0], expected, rtol=1e-6, atol=1e-6)


def test_two_phases_are_quicker_than_one_chain() -> None:
    """64 PEs, 1 word: 7 stages of 1 hop and 7 of 8, which hide what leaders add first."""
    x = jax.ShapeDtypeStruct((64, 1), jnp.dtype("float32"))
    program = Program(lambda x: reduce_to_first(x, "row"), {"row": 64}, (("row",),))
    clock = program.read(WAFER, x)
    ends = 24 + 4 + 4  # a call, a set-up, a drain
    assert clock.end_ticks == ends + 7 * 7 + 7 * (5 + 2 * 8) + 1 < ends + 1 + 7 * 63


@pytest.mark.parametrize("pes", [16, 64, 200])
def test_all_reduce_takes_the_quicker_way(pes: int) -> None:
    """Through the middle, which is half as far, or to the first PE, which takes fewer streams."""

    def first(x: jax.Array) -> jax.Array:
        x = reduce_to_first(x, "row")
        return multicast(x, x, axis="row", call=False)

    def middle(x: jax.Array) -> jax.Array:
        tree = trees.two_tree(pes, line_groups(pes))
        x = reduce(x, x, axis="row", tree=tree)
        return multicast(x, x, axis="row", root=tree.root, call=False)

    def cycles(kernel: Any, words: int) -> int:
        x = jax.ShapeDtypeStruct((pes, words), jnp.dtype("float32"))
        return Program(kernel, {"row": pes}, (("row",),)).read(WAFER, x).end_ticks

    chosen = {
        n: cycles(lambda x: all_reduce(x, "row"), n)
        for n in (1, pes // 2, pes, 4 * pes)
    }
    for n, taken in chosen.items():
        assert taken in (both := [cycles(first, n), cycles(middle, n)])
        # The rule is a rule of thumb near where they cross.
        assert taken <= 1.1 * min(both)
    assert chosen[1] < 0.95 * cycles(first, 1) and chosen[4 * pes] < 0.8 * cycles(
        middle, 4 * pes
    )


def test_gemv_sums_over_rows() -> None:
    w, x = normal(0, 4, 3, 5, 7), normal(1, 4, 5)
    program = Program(
        lambda w, x: all_reduce(gemv(w, x), "row"), {"row": 4, "col": 3}, (PE, ("row",))
    )
    expected = np.einsum("rkcn,rk->cn", w.swapaxes(1, 2).astype(np.float64), x)
    got = np.asarray(program.run(w, x))
    np.testing.assert_allclose(
        got, np.broadcast_to(expected, got.shape), rtol=1e-5, atol=1e-5
    )
    flops = program.read(WAFER, w, x).tally.by("flops")
    assert flops["wse.fmac_map"] == 2 * w.size
    assert flops["wse.reduce"] == (4 - 1) * 3 * 7


def test_rms_norm_counts_only_true_elements() -> None:
    x, weight = normal(0, 10), normal(1, 10)
    pad = lambda a: np.pad(a, (0, 2)).reshape(4, 3)  # noqa: E731
    program = Program(
        lambda x, w: rms_norm(x, w, n=10, eps=1e-5, dtype="float32"),
        {"row": 4},
        (("row",), ("row",)),
    )
    wide = x.astype(np.float64)
    expected = wide / np.sqrt((wide**2).mean() + 1e-5) * weight
    got = np.asarray(program.run(pad(x), pad(weight))).reshape(-1)
    np.testing.assert_allclose(got[:10], expected, rtol=2e-6)
    assert (got[10:] == 0).all()


@pytest.mark.parametrize(("rows", "share"), [(4, 2), (6, 1), (2, 4)])
def test_swiglu_shares_its_scalar_code(rows: int, share: int) -> None:
    x = normal(0, 2, 12)[:, : 4 if rows == 6 else 12] if rows == 6 else normal(0, 2, 16)
    f = x.shape[1] // 2
    program = Program(
        lambda x: swiglu(x, share, "float32"), {"row": rows, "col": 2}, (("col",),)
    )
    gate, up = x[:, :f].astype(np.float64), x[:, f:]
    got = np.asarray(program.run(x))
    expected = np.broadcast_to(gate / (1 + np.exp(-gate)) * up, got.shape)
    np.testing.assert_allclose(got, expected, rtol=2e-6, atol=1e-6)
    silu = program.read(WAFER, x).tally.by("flops")["wse.silu"]
    assert silu == 4 * 2 * f  # once for each element of each column, on whatever row


@pytest.mark.parametrize("pos", [0, 3, 10])
def test_attend_sees_live_positions_only(pos: int) -> None:
    m = small()
    k, v, q = normal(0, 11, 2, 8), normal(1, 11, 2, 8), normal(2, 4, 8)
    junk = np.where(np.arange(11) <= pos, 1, 1e9)[:, None, None].astype(np.float32)
    cache = {"k": tiles(k * junk, m).swapaxes(3, 2), "v": tiles(v * junk, m)}
    queries = q.reshape(2, 2, 2, 2, 2).transpose(0, 3, 1, 2, 4).reshape(4, 2, 4)
    program = Program(
        lambda q, c, pos: attend(m, q, c, pos), m.mesh, (("col",), PE, ()), PE
    )
    got = np.asarray(program.run(queries, cache, Known(np.int32(pos))))
    assert (got == got[:1]).all()
    out = got[0].reshape(2, 2, 2, 2, 2).transpose(0, 2, 3, 1, 4).reshape(4, 8)
    for head in range(4):
        s = k[: pos + 1, head // 2].astype(np.float64) @ q[head] / np.sqrt(8)
        p = np.exp(s - s.max())
        expected = p / p.sum() @ v[: pos + 1, head // 2]
        np.testing.assert_allclose(out[head], expected, rtol=3e-5, atol=1e-5)
    flops = program.read(WAFER, queries, cache, Known(np.int32(pos))).tally.by("flops")
    assert flops["wse.score_map"] == flops["wse.value_map"] == 2 * (pos + 1) * 4 * 8


def tiles(x: np.ndarray, m: LayerMap) -> np.ndarray:
    """`[11, 2, 8]` as `[rows, cols, slots, dims]`: position p in row p % 4, slot p // 4."""
    out = np.zeros((m.rows, m.cols, m.slots, m.dims), np.float32)
    for p in range(len(x)):
        for head in range(2):
            for part in range(2):
                # Pairs i and i + 4.
                at = [
                    2 * part,
                    2 * part + 1,
                    4 + 2 * part,
                    5 + 2 * part,
                ]
                out[p % 4, 2 * head + part, p // 4] = x[p, head, at]
    return out


def test_heads_are_normalised_over_their_group() -> None:
    m = small(qk_norm=True)
    qk, weight = normal(0, 4, 3, 4), normal(1, 4, 3, 4)
    program = Program(
        lambda a, w: normalise_heads(m, a, w),
        {"row": 1, "col": 4},
        (("col",), ("col",)),
        PE,
    )
    wide = qk.astype(np.float64).reshape(2, 2, 3, 4)
    mean = (wide**2).sum((1, 3), keepdims=True) / 8
    expected = (wide / np.sqrt(mean + 1e-5)).reshape(4, 3, 4) * weight
    np.testing.assert_allclose(
        program.run(qk, weight)[0], expected, rtol=3e-6, atol=1e-6
    )
