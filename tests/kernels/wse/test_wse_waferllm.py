"""WaferLLM's kernels on a small mesh: against float64 NumPy, in any dtype, and by the clock."""

from typing import Any

import numpy as np
import pytest

from emu.wse import WSE2
from kernels.wse.programs.waferllm import (
    Layer,
    Mesh,
    gemv_arguments,
    gemv_program,
    layer_arguments,
    layer_program,
)

P = 6


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def blocks(x: np.ndarray, first: int, second: int) -> np.ndarray:
    """`[first P, second P]` as `[P, P, first, second]`."""
    return x.reshape(P, first, P, second).swapaxes(1, 2)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 2e-2)])
def test_gemv(groups: int, dtype: str, tolerance: float) -> None:
    w, x = normal(0, 24, 24) / 5, normal(1, 24)
    m = Mesh(P, groups, dtype)
    got = gemv_program(m).run(
        blocks(w, 4, 4).astype(dtype), x.reshape(P, 4).astype(dtype)
    )
    got = np.asarray(got, np.float64)  # [rows, columns, 4], the result on every row
    assert (got == got[:1]).all()
    np.testing.assert_allclose(
        got[0].reshape(-1), x @ w, rtol=tolerance, atol=tolerance
    )


def test_gemv_by_hand() -> None:
    """A tile of 4 x 4: fill, loop, two stages to a root of 6 PEs in one group, and back."""
    d = WSE2.at()
    m = Mesh(P, 1)
    clock = gemv_program(m).read(d, *gemv_arguments(m, 24))
    fill = 9 + 6 + 1
    loop = 3 * 9 + 6 + 4 * 2 + 3 * 1  # four callbacks of 2 cycles, 1 between them
    call, gap, w = 40 + 9, 17 + 4, 2
    # PE 3 adds the eastern stream, two stages long, then the western one, and sends both ways;
    # PE 5 is two hops from it.
    there = 17 + 2 * 6 + w + gap + w
    back = gap + w + gap + w + 2 * 1 + 2 * 2 + 1 + 4
    assert clock.end_ticks == fill + loop + call + there + back
    assert clock.tally.by("flops")["wse.fmac_map"] == 2 * 24 * 24


# --- the layer ---


def tiles(c: Layer, w: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A layer's arrays on their PEs: rows have d_model first, columns what a product makes."""
    d, f, s = c.shares
    vector = {"attn_norm": d, "mlp_norm": d, "cos": d // 2, "sin": d // 2}
    out: dict[str, Any] = {name: w[name].reshape(P, n) for name, n in vector.items()}
    for name in ("q", "k", "v"):
        out[name] = blocks(w[name], d, d)
    for name in ("up", "gate"):
        out[name] = blocks(w[name], d, f)
    # Keys and values: positions on rows, dimensions on columns.
    out["keys"] = w["keys"].reshape(P, s, P, d).transpose(0, 2, 3, 1)
    out["values"] = blocks(w["values"], s, d)
    for name, first, second in (("out", d, d), ("down", f, d)):  # from columns to rows
        out[name] = blocks(w[name], first, second).swapaxes(0, 1)
    return out | {"scale": w["scale"]}


def norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x**2).mean() + eps) * weight


def turn(x: np.ndarray, c: Layer, w: dict[str, np.ndarray]) -> np.ndarray:
    """Pairs lie within a PE: its first and second half; the last of an odd number stays."""
    d = c.shares[0]
    half, y = d // 2, x.reshape(P, d).copy()
    cos, sin = w["cos"].reshape(P, half), w["sin"].reshape(P, half)
    a, b = y[:, :half].copy(), y[:, half : 2 * half].copy()
    y[:, :half], y[:, half : 2 * half] = a * cos - b * sin, b * cos + a * sin
    return y.reshape(-1)


def oracle(c: Layer, x: np.ndarray, w: dict[str, np.ndarray]) -> np.ndarray:
    _, f, _ = c.shares
    h = norm(x, w["attn_norm"], c.eps)
    q = turn(h @ w["q"], c, w)
    s = w["keys"] @ q * w["scale"]
    p = np.exp(s - s.max())
    x = x + (p / p.sum() @ w["values"]) @ w["out"]
    h = norm(x, w["mlp_norm"], c.eps)
    up, gate = h @ w["up"], h @ w["gate"]
    active = np.arange(f) < (f if c.activated is None else c.activated)
    act = np.where(np.tile(active, P), up / (1 + np.exp(-up)), up)
    return x + (act * gate) @ w["down"]


def weights(c: Layer) -> dict[str, np.ndarray]:
    d, f, s = (P * n for n in c.shares)
    angle = normal(9, P * (c.shares[0] // 2))
    near = lambda seed, *shape: normal(seed, *shape) / np.sqrt(shape[-2])  # noqa: E731
    return {
        "attn_norm": 1 + normal(1, d) / 4,
        "q": near(2, d, d),
        "k": near(10, d, d),
        "v": near(11, d, d),
        "keys": normal(3, s, d),
        "values": normal(4, s, d),
        "out": near(5, d, d),
        "mlp_norm": 1 + normal(6, d) / 4,
        "up": near(7, d, f),
        "gate": near(12, d, f),
        "down": near(8, f, d),
        "cos": np.cos(angle),
        "sin": np.sin(angle),
        "scale": np.array([d**-0.5]),
    }


@pytest.mark.parametrize("activated", [None, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("float16", 3e-2)])
@pytest.mark.parametrize("d_model", [24, 30])  # pairs, and an odd number on a PE
def test_layer(
    d_model: int, dtype: str, tolerance: float, activated: int | None
) -> None:
    c = Layer(Mesh(P, 3, dtype), d_model, 48, 36, activated=activated)
    x, w = normal(0, d_model), weights(c)
    made: Any = {name: a.astype(dtype) for name, a in tiles(c, w).items()}
    got = layer_program(c).run(x.reshape(P, -1).astype(dtype), made)
    got = np.asarray(got, np.float64)  # [rows, columns, d], the result on every column
    assert (got == got[:, :1]).all()
    expected = oracle(c, x, w)
    np.testing.assert_allclose(
        got[:, 0].reshape(-1), expected, rtol=tolerance, atol=tolerance
    )


def test_layer_has_thirteen_all_reduces() -> None:
    c = Layer(Mesh(P, 3), 24, 48, 36)
    events = (
        layer_program(c).read(WSE2.at(), *layer_arguments(c), trace_core=(0, 0)).events
    )
    names = [e.name for e in events]
    assert names.count("wse.reduce") == names.count("wse.multicast") == 13
    # Q, K, V, scores, values, output, up, gate, down; two norms, a maximum and a sum.
    assert names.count("wse.fmac_map") == 9
    flops = layer_program(c).read(WSE2.at(), *layer_arguments(c)).tally.by("flops")
    assert flops["wse.fmac_map"] == 2 * (4 * 24 * 24 + 2 * 24 * 36 + 3 * 24 * 48)
