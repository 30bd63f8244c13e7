"""Layers whose second half is a mixture of experts: on a ring of chips, one after another."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from emu import Known, Program
from emu.errors import DataDependentBranch
from emu.trainium import TRN3, with_cores
from kernels.moe.mesh.form import MixtureOfExperts, MoeForm
from kernels.moe.mesh.mixture import MoeWeights, moe_layer
from kernels.moe.mesh.places import order
from kernels.moe.mesh.weights import named, packed
from kernels.moe.mesh.work import MoeWork, dealt, sized, work
from kernels.moe.routing import Routing
from kernels.trainium.layer.form import Positions
from kernels.trainium.layer.layer import attention_half
from kernels.trainium.layer.qkv import qkv
from kernels.trainium.layer.ring import layer_ring
from kernels.trainium.tiles import pack
from tests.helpers import same_clock
from tests.kernels.moe.moe_oracle import dense, plain, routed
from tests.kernels.trainium import reference as ref
from tests.kernels.trainium.reference import draw, wide
from tests.kernels.trainium.test_trn_layer import weights_of

CHIPS, LAYERS = 2, 2
WHAT = MixtureOfExperts(Routing(4, 2), hidden=72, ffn=40, shared=16)
SIZES = ref.tiling(blocks=1, tiles=2, rows=8)
TOKENS = CHIPS * SIZES.tokens
DEVICE = with_cores(TRN3, 1).at()


def attended(x, cos, sin, w):
    """Hidden states with attention's output added, in float64."""
    s = SIZES
    w = {n: wide(a[0]) for n, a in w.items()}
    h = ref.rms_norm(x, w["attn_norm"], s.eps)
    q, k, v = ((h @ w[n]).reshape(len(x), -1, s.head_dim) for n in ("wq", "wk", "wv"))
    q, k = (ref.rotate(a, cos, sin) for a in (q, k))
    return x + ref.attention(q, k, v).reshape(len(x), -1) @ w["wo"]


def packed_layer(w):
    """What the attention half takes of `LayerWeights`."""
    s = SIZES
    _, size = s.hidden_tiles
    w = {n: a[0] for n, a in w.items()}
    fused = np.concatenate([w["wq"], w["wk"], w["wv"]], axis=1)
    return {
        "attn_norm": w["attn_norm"][None],
        "wqkv": pack(fused, size, s.qkv_columns),
        "wo": pack(w["wo"], s.head_dim, s.hidden_columns),
    }


@dataclasses.dataclass(frozen=True)
class Layers:
    """Two layers of two chips: program, arguments, and float64 results."""

    program: Program
    form: MoeForm
    args: tuple
    y: np.ndarray
    counts: np.ndarray  # [layers, chips, experts]


@functools.cache
def layers():
    s = SIZES
    cos, sin = ref.turns(TOKENS, s.head_dim)
    x = draw(9, TOKENS, s.hidden)
    attention = [weights_of(s) for _ in range(LAYERS)]
    experts = [plain(WHAT, seed) for seed in range(LAYERS)]
    norms = np.float32(1) + np.float32(0.1) * draw(3, LAYERS, 1, s.hidden)
    y, counts = wide(x), []
    for own, moe, norm in zip(attention, experts, norms, strict=True):
        y = attended(y, cos, sin, own)
        h = ref.rms_norm(y, norm[0], s.eps)
        chosen, _ = routed(h, moe, WHAT)
        by_chip = chosen.reshape(CHIPS, -1)
        counts.append([np.bincount(c, minlength=4) for c in by_chip])
        y = y + dense(h, moe, WHAT)
    counts = np.array(counts)
    form = sized(
        WHAT,
        counts,
        cores=1,
        tiles=s.blocks * s.tiles,
        rows=s.rows,
        dtype=s.dtype,
        tile_rows=16,
        tiles_at_once=1,
    )
    ring = layer_ring(s, tokens=TOKENS, chips=CHIPS, axis="ring")
    stack = lambda *a: np.stack(a)  # noqa: E731
    moe = jax.tree.map(stack, *[packed(e, form) for e in experts])
    of_attention = jax.tree.map(stack, *map(packed_layer, attention))

    def kernel(x, cos, sin, of_attention, norms, moe, tables, known, ring_work, masks):
        attend = ring.attend(ring_work, masks)
        positions = Positions(cos, sin)
        project = functools.partial(qkv, positions=positions, tiling=s)

        def one_layer(x, given):
            own, norm, experts, known = given
            y, k, v = attention_half(x, own, project, attend, s)
            mixed = moe_layer(
                *(y, norm, experts, tables, known, form),
                eps=s.eps,
                chip_axis="ring",
            )
            return mixed.rows, (mixed.counts, k, v)

        xs = of_attention, norms, moe, known
        return lax.scan(one_layer, x, xs)

    of_chip = ("ring",)
    each = (None, "ring", "core")
    specs = (
        *(of_chip,) * 3,
        *((), ()),
        MoeWeights((), each, (None, "core")),  # type: ignore[arg-type]
        *((), each, of_chip, ()),
    )
    program = Program(kernel, {"ring": CHIPS, "core": 1}, specs)

    def laid(a):
        return a.reshape(CHIPS, s.blocks, s.tiles, s.rows, -1)

    tables = jax.tree.map(lambda table: table.reshape(1, -1), order(form))
    given = (
        *(laid(x), laid(cos), laid(sin)),
        *(of_attention, norms, moe, tables, work(form, counts)),
        *(ring.known(with_masks=True), ring.hops.predicates()),
    )
    return Layers(program, form, given, laid(y), counts)


@pytest.mark.slow
def test_two_layers_on_a_ring():
    """Each layer's counts are known integers of its own, and what the data has."""
    case = layers()
    y, (counts, k, v) = case.program.run(*case.args)
    np.testing.assert_array_equal(
        np.asarray(counts)[:, 0, :, 0], case.counts.swapaxes(0, 1)
    )
    # Two layers of four stages, each as the mixture alone.
    ref.assert_near(y[:, 0], case.y, 1e-5)
    assert np.isfinite(k).all() and np.isfinite(v).all()


def test_the_clock_of_two_layers():
    """Of arrays and of their shapes, walked and jumped; more tiles in one layer take longer."""
    case = layers()
    clock = case.program.read(DEVICE, *case.args)
    same_clock(clock, case.program.read(DEVICE, *case.args, jump=False))
    structs = jax.tree.map(_struct, case.args, is_leaf=_is_known)
    same_clock(clock, case.program.read(DEVICE, *structs))
    more = jax.tree.map(_struct, case.args, is_leaf=_is_known)
    counts = case.counts.copy()
    # All tokens of both chips to two experts of the second chip, in the second layer.
    counts[1] = [0, 0, 0, 0]
    counts[1][:, [1, 3]] = SIZES.tokens
    at = [isinstance(x, MoeWork) for x in more].index(True)
    args = [*more[:at], work(case.form, counts), *more[at + 1 :]]
    assert case.program.read(DEVICE, *args).end_ticks > clock.end_ticks


def _is_known(x):
    return isinstance(x, Known)


def _struct(x):
    return x if _is_known(x) else jax.ShapeDtypeStruct(x.shape, x.dtype)


def test_counts_must_be_known():
    case = layers()
    unknown = [
        jax.tree.map(lambda x: x.value, x, is_leaf=_is_known)
        if isinstance(x, MoeWork)
        else x
        for x in case.args
    ]
    with pytest.raises(DataDependentBranch, match="as emu.Known"):
        case.program.read(DEVICE, *unknown)


def test_a_model_s_arrays_by_name():
    """As a mixture takes them, packed alike."""
    own = plain(WHAT)
    by_name = {"router": own.router}
    for part in ("gate", "up", "down"):
        by_name[f"expert_{part}"] = getattr(own.experts, part)
        by_name[f"shared_{part}"] = getattr(own.shared, part)
    made = named(by_name)
    assert made.selection is None and made.experts.up_bias is None
    for x, y in zip(jax.tree.leaves(made), jax.tree.leaves(own), strict=True):
        np.testing.assert_array_equal(x, y)


def test_totals_of_all_layers_are_dealt():
    """`counts[layers, experts]`, as a clock without data is given them."""
    totals = np.array([[16, 16, 16, 16], [32, 32, 0, 0], [1, 31, 30, 2]])
    counts = dealt(totals, CHIPS)
    assert counts.shape == (3, CHIPS, 4) and (counts.sum(-1) == 32).all()
    form = sized(
        *(WHAT, counts), cores=1, tiles=1, rows=16, dtype=jnp.float32, tile_rows=16
    )
    known: Any = work(form, counts)
    assert known.sends.value.shape == (3, CHIPS, 1, 2, CHIPS)
    # MixtureOfExperts 0 and 2 are chip 0's, 1 and 3 chip 1's.
    taken = known.comes.value.sum(-1)[:, :, 0]
    np.testing.assert_array_equal(taken[:, 0], totals[:, [0, 2]])
    np.testing.assert_array_equal(taken[:, 1], totals[:, [1, 3]])
