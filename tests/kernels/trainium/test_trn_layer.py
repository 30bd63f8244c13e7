"""One decoder layer on two chips, and on several cores of each, against float64 NumPy."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from emu import Known, Program
from emu.trainium.datasheets import TRN3, with_cores
from kernels.trainium.layer.form import Positions, PrefillForm
from kernels.trainium.layer.layer import layer
from kernels.trainium.layer.qkv import qkv
from kernels.trainium.layer.ring import layer_ring
from kernels.trainium.layer.tiling import LayerTiling
from models.config import ModelConfig
from models.machines.pack import pack_weights
from models.machines.tensor_parallel import divide_model
from tests.helpers import same_clock
from tests.kernels.trainium import reference as ref
from tests.kernels.trainium.reference import check, draw, wide

CHIPS = 2


def weights_of(s):
    """Canonical weights of a model of one layer, of variance 1 / inputs."""
    fused = s.heads * s.head_dim, s.kv_heads * s.head_dim
    shapes = {
        "wq": (s.hidden, fused[0]),
        "wk": (s.hidden, fused[1]),
        "wv": (s.hidden, fused[1]),
        "wo": (fused[0], s.hidden),
        "w_gate": (s.hidden, s.ffn),
        "w_up": (s.hidden, s.ffn),
        "w_down": (s.ffn, s.hidden),
    }
    linear = {
        n: draw(i, 1, *shape) * np.float32(shape[0] ** -0.5)
        for i, (n, shape) in enumerate(shapes.items())
    }
    sizes = {
        "attn_norm": s.hidden,
        "mlp_norm": s.hidden,
        "q_norm": s.head_dim,
        "k_norm": s.head_dim,
    }
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


def config_of(s):
    """A model with this layer; 8 token ids."""
    return ModelConfig(
        name="layer",
        model_type="qwen3",
        hidden_size=s.hidden,
        intermediate_size=s.ffn,
        num_hidden_layers=1,
        num_attention_heads=s.heads,
        num_key_value_heads=s.kv_heads,
        head_dim=s.head_dim,
        vocab_size=8,
        max_position_embeddings=1024,
        rope_theta=1e4,
        rope_scaling=None,
        rms_norm_eps=s.eps,
        tie_word_embeddings=True,
        source="made up",
    )


@dataclasses.dataclass
class Case:
    """A layer of two chips: its program, its arguments, and what it owes in float64.

    Attributes:
      own: sizes of one core.
      y: hidden states, `[chips, blocks, tiles, rows, hidden padded]`.
      k: `[chips, token tiles, kv_heads, head_dim, rows]`.
      v: `[chips, token tiles, rows, kv_heads · head_dim]`.
    """

    program: Program
    args: tuple
    own: LayerTiling
    y: np.ndarray
    k: np.ndarray
    v: np.ndarray


def case(s, cores):
    tokens, count = CHIPS * s.tokens, s.blocks * s.tiles
    x, (cos, sin) = draw(9, tokens, s.hidden), ref.turns(tokens, s.head_dim)
    w = weights_of(s)
    model = {
        "embed": draw(0, 8, s.hidden),
        "norm": np.ones(s.hidden, np.float32),
        "layers": w,
    }
    config = config_of(s)
    shares, core = divide_model(config, cores), "core" if cores > 1 else None
    heads, kv_heads, ffn = (
        n.shape[1] for n in (shares.heads, shares.kv_heads, shares.ffn)
    )
    own = dataclasses.replace(s, heads=heads, kv_heads=kv_heads, ffn=ffn)
    (run,) = pack_weights(config, model, own, shares)["layers"]
    packed = {n: np.asarray(a[0]) for n, a in run.items()}
    divided = {n: () if "norm" in n or not core else (core,) for n in packed}
    y, k, v = expected(x, cos, sin, w, s)
    x, y = (np.pad(a, [(0, 0), (0, s.hidden_padded - s.hidden)]) for a in (x, y))
    x, y, cos, sin = (
        a.reshape(CHIPS, s.blocks, s.tiles, s.rows, -1) for a in (x, y, cos, sin)
    )
    k = k.reshape(CHIPS, count, s.rows, s.kv_heads, s.head_dim).transpose(0, 1, 3, 4, 2)
    ring = layer_ring(own, tokens=tokens, chips=CHIPS, axis="ring")

    def kernel(x, cos, sin, weights, work, patterns):
        form = PrefillForm(qk_norm="head")
        project = functools.partial(
            qkv, positions=Positions(cos, sin), tiling=own, form=form
        )
        attend = ring.attend(work, patterns)
        return layer(x, weights, project, attend, own, core_axis=core)

    mesh = {"ring": CHIPS} | ({core: cores} if core else {})
    program = Program(kernel, mesh, (*(("ring",),) * 3, divided, ("ring",), ()))
    tables = ring.known(with_masks=True), ring.hops.predicates()
    args = x, cos, sin, packed, *tables
    return Case(program, args, own, y, k, v.reshape(CHIPS, count, s.rows, -1))


# A hidden size that 128 does not divide: its padding must come out zero.
SIZES = ref.tiling(hidden=130, blocks=2, tiles=1)


def linear_flops(s, tokens):
    """Projections of tokens by one core, padding included."""
    hidden, ffn = s.hidden_padded, s.ffn_tiles[0] * s.ffn_tiles[1]
    return 2 * tokens * hidden * (2 * (s.heads + s.kv_heads) * s.head_dim + 3 * ffn)


def test_layer():
    s, c = SIZES, case(SIZES, 1)
    clock = check(
        c.program,
        c.args,
        (c.y, c.k, c.v),
        within=5e-6,
        matmul_flops=linear_flops(s, CHIPS * s.tokens) + ref.attention_flops(s, CHIPS),
    )
    # The first chip's half, and float32 half of float64; what the second has nobody needs.
    assert clock.tally.by("other")["link_bytes"] == (c.k.nbytes + c.v.nbytes) // 4


# The numbers of two cores are checked on real devices, below.
@pytest.mark.parametrize("cores", [pytest.param(2, marks=pytest.mark.slow), 8])
def test_layer_shared_by_cores(cores):
    """Two KV heads of two query heads: a group on each of two cores, or a query head on each of
    four of eight; the others hold padding. 200 FFN columns: 100 or 25 a core."""
    s, c = SIZES, case(SIZES, cores)
    assert (c.own.heads, c.own.kv_heads, c.own.ffn) == (
        (2, 1, 100) if cores == 2 else (1, 1, 25)
    )
    y, k, v = c.program.run(*c.args)
    ref.assert_near(y, np.broadcast_to(c.y[:, None], y.shape), 5e-6)  # on every core
    copies = 4 // c.own.heads // 2  # cores that hold one KV head
    for core in range(0, 2 * copies):
        head = slice(core // copies, core // copies + 1)
        ref.assert_near(k[:, core], c.k[:, :, head], 5e-6)
        each = c.v.reshape(*c.v.shape[:3], s.kv_heads, -1)
        ref.assert_near(v[:, core], each[..., head, :].squeeze(3), 5e-6)
    assert not np.asarray(k)[:, 2 * copies :].any()  # padding
    flops = linear_flops(c.own, CHIPS * s.tokens) + ref.attention_flops(c.own, CHIPS)
    device = with_cores(TRN3, cores).at()
    clock = c.program.read(device, *c.args)
    same_clock(clock, c.program.read(device, *c.args, jump=False))
    assert clock.tally.by("flops")["trn.nc_matmul"] == cores * flops
    assert clock.tally.by("count")["trn.all_reduce"] == 2 * s.blocks * CHIPS * cores


def test_layer_on_real_devices():
    """Two chips of two cores as four devices under `shard_map`, which checks the replication."""
    c = case(SIZES, 2)
    is_known = lambda x: isinstance(x, Known)  # noqa: E731
    args = jax.tree.map(
        lambda x: x.value if is_known(x) else x, c.args, is_leaf=is_known
    )
    y, k, v = c.program.sharded()(*args)
    ref.assert_near(y, np.broadcast_to(c.y[:, None], y.shape), 5e-6)  # on every core
    # A KV head on each core: `[chips, cores, ...]`, and what is one head's of the oracle.
    for core in range(2):
        head = slice(core, core + 1)
        ref.assert_near(k[:, core], c.k[:, :, head], 5e-6)
        each = c.v.reshape(*c.v.shape[:3], SIZES.kv_heads, -1)
        ref.assert_near(v[:, core], each[..., head, :].squeeze(3), 5e-6)
