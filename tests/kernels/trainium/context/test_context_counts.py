"""What ring attention and the other schemes count, in closed form: FLOPs, and bytes over links
and, of rings, in HBM.

Tiles are live where a pair of positions is, by looking at every pair; blocks of keys and values
travel as far as any rank still needs them.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import roofline
from jax.sharding import PartitionSpec

from kernels import masks
from kernels.tokens.placement import PLACEMENTS
from tests.kernels.trainium.context.oracle import MASKS, context, masks_of
from tests.kernels.trainium.context.ring_bytes import DEAD, Core, ring_bytes, statuses
from tests.kernels.trainium.reference import DEVICE, tensor_busy

BYTES = 4  # of float32


def counted(a):
    """FLOPs of matmuls, bytes over links and bytes moved in HBM, over all ranks."""
    tally = a.read(DEVICE).tally
    moved = tally.by("bytes")
    return (
        tally.by("flops")["trn.nc_matmul"],
        tally.by("other")["link_bytes"],
        moved["hbm_read"] + moved["hbm_write"],
    )


def of_ring(a, sent):
    """The same in closed form, where blocks are sent on so often."""
    moved = ring_bytes(Core.of(a.sizes), status(a), sent)
    return matmul_flops(a), sent * block_bytes(a), moved


def status(a):
    """Blocks of queries by key tiles, see `statuses`."""
    s, positions = a.sizes, a.sides.kv.positions()
    return statuses(a.mask, positions, a.tokens, s.block_tiles * s.rows, s.columns)


def live(a):
    """Live blocks of queries by key tiles, bool `[ranks, blocks, ranks, key tiles]`."""
    return status(a) > DEAD


def matmul_flops(a):
    """Scores and weighted values of every live pair of tiles."""
    s = a.sizes
    pairs = int(live(a).sum()) * s.block_tiles * s.rows * s.columns
    return 2 * pairs * a.heads * (a.head_dim + s.value_dim)


def block_bytes(a):
    """Keys and values of a rank, padding included: once for all heads of a group."""
    s = a.sizes
    return s.key_slots * a.kv_heads * (a.head_dim + s.value_dim) * BYTES


def by_hop(a):
    """Live pairs of tiles of each rank with the keys of n ranks before, `[ranks, n]`."""
    work, ranks = live(a).sum((1, 3)), np.arange(a.ranks)
    return work[ranks[:, None], (ranks[:, None] - ranks) % a.ranks]


def sent_blocks(a):
    """A block travels to the last rank that needs it, in as many hops as the ring makes of that."""
    needed, origin = by_hop(a) > 0, np.arange(a.ranks)
    hops = [n for n in range(1, a.ranks) if a.every_hop or needed[:, n].any()]
    met = np.stack([needed[(origin + n) % a.ranks, n] for n in hops] or [origin < 0])
    # By block: hops up to the last that needs it.
    return int(np.flip(np.logical_or.accumulate(np.flip(met, 0))).sum())


def ring(mask, **sizes):
    """Four tiles a rank, the last of which are not full."""
    base = dict(tokens=61, unroll=True, heads=2, kv_heads=1, lanes=1, value_dim=6)
    return context(mask, **(base | sizes))


CLOSED = {
    # Every block visits every other rank.
    "full": ("full", "contiguous", 4 * 3),
    # The block of rank o is needed by the 3 - o ranks behind it, and is sent no further.
    "causal": ("causal", "contiguous", 3 + 2 + 1),
    "zigzag": ("causal", "zigzag", 4 * 3),
    "striped": ("causal", "striped", 4 * 3),
    "tile-cyclic": ("causal", "tile-cyclic", 4 * 3),
    # Three tokens back are at most one rank back.
    "window": ("window", "contiguous", 3),
}


@pytest.mark.parametrize("name", CLOSED)
def test_ring(name):
    mask, placement, blocks = CLOSED[name]
    a = ring(masks_of(61)[mask], placement=placement)
    assert sent_blocks(a) == blocks
    assert counted(a) == of_ring(a, blocks)


SEVERAL_BLOCKS = [
    {"heads": 8, "kv_heads": 2, "lanes": 4, "cores": 2},
    {"heads": 8, "kv_heads": 1, "lanes": 2},  # four groups of heads of one KV head
    {"heads": 6, "kv_heads": 6, "lanes": 8, "tokens": 256, "columns": 16},
    {"dtype": jnp.bfloat16, "recipe": "bf16-o"},
]


@pytest.mark.parametrize(
    "sizes",
    [
        SEVERAL_BLOCKS[0],
        *(pytest.param(each, marks=pytest.mark.slow) for each in SEVERAL_BLOCKS[1:]),
    ],
    ids=str,
)
def test_hbm_bytes_of_a_ring(sizes):
    """Of blocks of several heads and tiles, of 16 bits, and of cores with a part of the heads."""
    a = ring(masks.causal, placement="zigzag", **(sizes | {"unroll": False}))
    core = Core.of(a.sizes, carried_bytes=jnp.dtype(a.sizes.carried).itemsize)
    # In zigzag every block visits every rank.
    *_, moved = counted(a)
    assert moved == a.cores * ring_bytes(core, status(a), 4 * 3)


def test_a_ring_for_each_chip_of_a_rank():
    """Two chips of each rank send half of the heads each, and to their like: chips count ranks
    first, so that is two chips further on."""
    sizes = dict(placement="zigzag", unroll=False, heads=8, kv_heads=4, lanes=1)
    one, both = (ring(masks.causal, tensor=number, **sizes) for number in (1, 2))
    assert counted(both)[:2] == counted(one)[:2]
    assert both.ring.chips == ("ring", "tensor")
    core = Core.of(both.sizes, carried_bytes=jnp.dtype(both.sizes.carried).itemsize)
    *_, moved = counted(both)
    assert moved == both.tensor * ring_bytes(core, status(both), 4 * 3)


def assert_counts(mask, placement):
    """In a loop over hops, dead ones too, because what is replicated travels otherwise."""
    a = ring(masks_of(61)[mask], placement=placement, unroll=False, every_hop=True)
    assert counted(a) == of_ring(a, sent_blocks(a))


@pytest.mark.parametrize("n, mask", list(enumerate(MASKS)))
def test_every_mask(n, mask):
    assert_counts(mask, PLACEMENTS[n % len(PLACEMENTS)])


@pytest.mark.slow
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("mask", MASKS)
def test_every_mask_on_every_placement(mask, placement):
    assert_counts(mask, placement)


@pytest.mark.parametrize("placement", ["contiguous", "zigzag"])
def test_scanned_as_unrolled(placement):
    """In every count. Not in time by law: hops written out have tiles of their own."""
    a = ring(masks.causal, placement=placement)
    unrolled, scanned = (
        x.read(DEVICE) for x in (a, dataclasses.replace(a, unroll=False))
    )
    assert unrolled.tally.sums == scanned.tally.sums
    assert unrolled.end_ticks <= scanned.end_ticks


def test_zigzag_shares_causal_work_evenly():
    """With one tile a chunk: 3 pairs of its own, then 2 of every other rank's, at every hop."""
    a = ring(masks.causal, placement="zigzag", tokens=32)
    assert (by_hop(a) == [3, 2, 2, 2]).all()
    assert len(np.unique(tensor_busy(a.read(DEVICE)))) == 1


def test_one_program_for_all_ranks_skips_nothing_by_rank():
    """Causal on contiguous ranks: every pair of tiles is live on some rank but those of the own."""
    a = ring(masks.causal, placement="contiguous", static_program=True, tokens=64)
    tiles = a.sizes.tiles
    pairs = (
        4 * (tiles * (tiles + 1) // 2 + 3 * tiles**2) * a.sizes.rows * a.sizes.columns
    )
    expected = (
        2 * pairs * a.heads * (a.head_dim + a.sizes.value_dim),
        4 * 3 * block_bytes(a),
    )
    assert counted(a)[:2] == expected


def test_flops_are_those_of_the_dense_dots():
    """`jax.experimental.roofline` counts a dot once and in full, which is what no mask leaves."""
    a = context(masks.full, ranks=1, tokens=24, columns=12)
    shape = jax.ShapeDtypeStruct((24, a.heads, a.head_dim), jnp.float32)

    def dots(q, k, v):
        return jnp.einsum("hqk,khd->qhd", jnp.einsum("qhd,khd->hqk", q, k), v)

    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    whole = PartitionSpec()
    _, dense = roofline.roofline(
        dots, mesh=mesh, in_specs=(whole,) * 3, out_specs=whole
    )(shape, shape, shape)
    assert counted(a)[0] == dense.flops


# --- bytes of the other schemes, over all ranks, of c tokens a rank ---


def scheme(name, ranks, **sizes):
    """No padding: 8 tokens a rank."""
    return context(
        masks.full,
        scheme=name,
        ranks=ranks,
        tokens=8 * ranks,
        lanes=1,
        value_dim=6,
        **sizes,
    )


def test_all_gather_sends_what_a_ring_does():
    a = scheme("all-gather", 4)
    assert counted(a)[:2] == (matmul_flops(a), 4 * 3 * block_bytes(a))


@pytest.mark.parametrize("ranks, inner", [(2, 2), (4, 2)])
def test_ulysses(ranks, inner):
    """All but an inner-th of queries, keys, values, output and log-sum-exp; then rings of
    inner ranks' tokens and an inner-th of the heads."""
    a = scheme("ulysses" if ranks == inner else "ulysses-ring", ranks, inner=inner)
    tokens, outer = 8 * ranks, ranks // inner
    features = a.heads * (8 + 6 + 1) + a.kv_heads * (8 + 6)
    swapped = tokens * features * (inner - 1) // inner
    rings = (outer - 1) * tokens * a.kv_heads * (8 + 6)
    assert counted(a)[1] == (swapped + rings) * BYTES


def test_tiles():
    """Queries from the other columns, keys and values from the other rows, partial outputs with a
    maximum and a sum back."""
    a = scheme("tiles", 6, inner=3)
    rows, columns, c = 2, 3, 8
    queries = (columns - 1) * c * a.heads * 8
    keys = (rows - 1) * c * a.kv_heads * (8 + 6)
    back = (columns - 1) * c * a.heads * (6 + 2)
    assert counted(a)[1] == 6 * (queries + keys + back) * BYTES


def test_pass_q():
    """New queries visit every other rank, and what each found comes back."""
    a = scheme("pass-q", 4, queries=8)
    queries, back = 3 * 2 * a.heads * 8, 3 * 2 * a.heads * (6 + 2)
    assert counted(a)[1] == 4 * (queries + back) * BYTES
