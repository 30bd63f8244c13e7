"""One decoder layer on two chips: hidden states, keys and values against float64 NumPy."""

import functools

import numpy as np

from emu import Program
from kernels.trainium.layer import layer
from models.pack import pack_weights
from tests.kernels.trainium import reference as ref
from tests.kernels.trainium.reference import check, draw, wide

CHIPS = 2


def weights_of(s):
    """Canonical weights of a model of one layer, of variance 1 / inputs."""
    fused = s.heads * s.head_dim, s.kv_heads * s.head_dim
    shapes = {
        "wq": (s.hidden, fused[0]), "wk": (s.hidden, fused[1]), "wv": (s.hidden, fused[1]),
        "wo": (fused[0], s.hidden), "w_gate": (s.hidden, s.ffn), "w_up": (s.hidden, s.ffn),
        "w_down": (s.ffn, s.hidden),
    }  # fmt: skip
    linear = {
        n: draw(i, 1, *shape) * np.float32(shape[0] ** -0.5)
        for i, (n, shape) in enumerate(shapes.items())
    }
    sizes = {
        "attn_norm": s.hidden, "mlp_norm": s.hidden, "q_norm": s.head_dim, "k_norm": s.head_dim
    }  # fmt: skip
    norms = {
        n: np.float32(1) + np.float32(0.1) * draw(i, 1, size)
        for i, (n, size) in enumerate(sizes.items())
    }
    return linear | norms


def expected(x, cos, sin, w, s):
    """x `[tokens, hidden]` to the next hidden states, rotated keys, and values."""
    w = {n: wide(a[0]) for n, a in w.items()}
    h = ref.rms_norm(x, w["attn_norm"], s.eps)
    q, k, v = ((h @ w[n]).reshape(len(x), -1, s.head_dim) for n in ("wq", "wk", "wv"))
    q, k = (ref.rms_norm(a, w[n], s.eps) for a, n in ((q, "q_norm"), (k, "k_norm")))
    q, k = (ref.rotate(a, cos, sin) for a in (q, k))
    y = wide(x) + ref.attention(q, k, v).reshape(len(x), -1) @ w["wo"]
    h = ref.rms_norm(y, w["mlp_norm"], s.eps)
    return y + (ref.silu(h @ w["w_gate"]) * (h @ w["w_up"])) @ w["w_down"], k, v


def test_layer():
    """A hidden size that 128 does not divide: its padding must come out zero."""
    s = ref.tiling(hidden=130, qk_norm=True, blocks=2, tiles=1)
    tokens = CHIPS * s.tokens
    x, (cos, sin) = draw(9, tokens, s.hidden), ref.turns(tokens, s.head_dim)
    w = weights_of(s)
    model = {
        "embed": draw(0, 8, s.hidden), "norm": np.ones(s.hidden, np.float32), "layers": w
    }  # fmt: skip
    packed = {n: np.asarray(a[0]) for n, a in pack_weights(model, s)["layers"].items()}
    padded = np.pad(x, [(0, 0), (0, s.hidden_padded - s.hidden)])
    by_chip = (CHIPS, s.blocks, s.tiles, s.rows)
    args = [a.reshape(*by_chip, -1) for a in (padded, cos, sin)]
    y, k, v = expected(x, cos, sin, w, s)
    y = np.pad(y, [(0, 0), (0, s.hidden_padded - s.hidden)]).reshape(*by_chip, -1)
    count = s.blocks * s.tiles
    k = k.reshape(CHIPS, count, s.rows, s.kv_heads, s.head_dim).transpose(0, 1, 3, 4, 2)
    v = v.reshape(CHIPS, count, s.rows, -1)
    kernel = functools.partial(layer, s=s, chips=CHIPS, axis="ring")
    program = Program(kernel, {"ring": CHIPS}, (("ring",),) * 3 + ((),))
    hidden, ffn = s.hidden_padded, s.ffn_tiles[0] * s.ffn_tiles[1]
    fused = (s.heads + 2 * s.kv_heads) * s.head_dim
    linear = hidden * (fused + s.heads * s.head_dim + 3 * ffn)
    clock = check(
        program, (*args, packed), (y, k, v), within=5e-6,
        matmul_flops=2 * tokens * linear + ref.attention_flops(s, CHIPS),
    )  # fmt: skip
    assert clock.tally.by("other")["link_bytes"] == (k.nbytes + v.nbytes) // 2  # float32, one hop
