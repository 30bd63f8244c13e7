"""MLA, expanded and absorbed: against float64 NumPy head by head, its FLOPs and its bytes."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu.errors import LimitExceeded
from emu.trainium import TRN3
from emu.wse import WSE3, value_map
from emu.wse.placement.regions import DoesNotFit
from kernels import PLACEMENTS, attention, masks, variants
from kernels.attention.latent import FORMS, LatentSizes
from kernels.attention.latent_decode import latent_decode
from kernels.attention.on_pe import DecodeSizes
from kernels.attention.prefill import by_sequence, by_token
from kernels.variants import mla
from kernels.wse.decode.share import Share

BATCH, HEADS, QUERIES, KEYS = 2, 4, 21, 21
NOPE, ROPE, RANK, VALUE_DIM = 8, 4, 16, 6
# Of few bits, so that a score's arithmetic in float32 is exact.
SLOPES = np.array([0.5, 0.25, 0.125, 0.0625], np.float32)
SMALL: dict[str, Any] = dict(columns=8, lanes=2)


@functools.cache
def operands() -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    shapes = (
        (BATCH, HEADS, QUERIES, NOPE + ROPE),
        (BATCH, KEYS, RANK),
        (BATCH, KEYS, ROPE),
        (RANK, HEADS, NOPE),
        (RANK, HEADS, VALUE_DIM),
    )
    *others, w_k, w_v = (rng.standard_normal(x).astype(np.float32) for x in shapes)
    return (*others, w_k / np.float32(RANK**0.5), w_v / np.float32(RANK**0.5))


def score(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    """Told apart by batch and head; the first rows attend to nothing."""
    near = (k <= q) & (q - k < 6 + 3 * h) & (q >= 2)
    return jnp.where(near, s - jnp.asarray(SLOPES)[h] * (q - k) * (b + 1), -jnp.inf)


def head_by_head(
    given: tuple[np.ndarray, ...], begin: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """By the paper's equations, absorbed: queries are multiplied by the keys' weights."""
    q, latent, rotary, w_k, w_v = (np.asarray(x, float) for x in given)
    out = np.zeros((*q.shape[:3], VALUE_DIM))
    sums = np.full(q.shape[:3], -np.inf)
    for b, h, n in np.ndindex(*sums.shape):
        at = begin + n
        live = [k for k in range(KEYS) if 0 <= at - k < 6 + 3 * h and at >= 2]
        if not live:
            continue
        absorbed = w_k[:, h] @ q[b, h, n, :NOPE]
        scores = latent[b, live] @ absorbed + rotary[b, live] @ q[b, h, n, NOPE:]
        scores = scores / np.sqrt(NOPE + ROPE)
        scores -= float(SLOPES[h]) * (at - np.array(live)) * (b + 1)
        weights = np.exp(scores)
        sums[b, h, n] = np.log(weights.sum())
        out[b, h, n] = (weights @ latent[b, live] / weights.sum()) @ w_v[:, h]
    return out, sums


def assert_near(given: Any, wanted: Any, allowed: float) -> None:
    for one, other in zip(given, wanted, strict=True):
        assert np.shape(one) == np.shape(other)
        nothing = np.isneginf(other)
        np.testing.assert_array_equal(np.isneginf(one), nothing)
        apart = np.where(nothing, 0, one) - np.where(nothing, 0, other)
        assert np.abs(apart).max() <= allowed


def mine(form: Any) -> Any:
    return mla(form, attention(score))


def test_dense() -> None:
    given = mine("expanded").dense(*operands())
    assert_near(given, head_by_head(operands()), 1e-12)


OTHERS = [(chips, place) for chips in (1, 2, 4, 8) for place in PLACEMENTS]
SLOW = [pytest.param(*case, marks=pytest.mark.slow) for case in OTHERS]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("chips", "placement"), [(2, "zigzag"), *SLOW])
def test_prefill(chips: int, placement: str, form: str) -> None:
    where: dict[str, Any] = dict(chips=chips, placement=placement)
    given = mine(form).prefill(*operands(), **where, **SMALL)
    wanted = head_by_head(operands())
    # Sums of 16 latents add a few roundings to attention's own.
    sums = wanted[1][np.isfinite(wanted[1])]
    assert_near(given, wanted, 2e-6 * max(1.0, float(np.abs(sums).max())))


# On which chips, by which scheme, with which inner ranks and on how many cores of each chip.
MESHES = {
    "ulysses-ring": (2, "ulysses-ring", 2, 1),
    "all-gather on cores": (2, "all-gather", 1, 2),
    "ulysses-ring on cores": (4, "ulysses-ring", 2, 2),
    "ring on cores": (2, "ring", 1, 8),
    "tiles on cores": (4, "tiles", 2, 2),
    "pass-q on cores": (2, "pass-q", 1, 4),
}
CHEAP = ("expanded, ulysses-ring", "absorbed, all-gather on cores")


@pytest.mark.parametrize(
    ("form", "mesh"),
    [
        pytest.param(
            form, mesh, marks=() if f"{form}, {mesh}" in CHEAP else pytest.mark.slow
        )
        for form in FORMS
        for mesh in MESHES
    ],
)
def test_prefill_by_other_schemes_and_on_cores(form: str, mesh: str) -> None:
    """Heads have masks and slopes of their own, so each must meet those of its own place."""
    chips, scheme, inner, cores = MESHES[mesh]
    where: dict[str, Any] = dict(chips=chips, scheme=scheme, inner=inner, cores=cores)
    given = mine(form).prefill(*operands(), placement="striped", **where, **SMALL)
    wanted = head_by_head(operands())
    sums = wanted[1][np.isfinite(wanted[1])]
    assert_near(given, wanted, 2e-6 * max(1.0, float(np.abs(sums).max())))


def by_head(b: Any, h: Any, q: Any, k: Any) -> Any:
    """A mask of each head of each sequence; the first rows attend to nothing."""
    return (k <= q) & (q - k < 6 + 3 * h + b) & (q >= 2)


@pytest.mark.slow
@pytest.mark.parametrize("cores", [1, 2, 8])
@pytest.mark.parametrize("chips", [1, 2, 4, 8])
@pytest.mark.parametrize("scheme", ["ring", "all-gather", "ulysses-ring"])
@pytest.mark.parametrize("form", FORMS)
def test_prefill_on_every_placement(
    form: Any, scheme: str, chips: int, cores: int
) -> None:
    """Masks are in a program's arguments, so all placements share one that is compiled once."""
    inner = 2 if scheme == "ulysses-ring" else 1
    if chips < 2 and scheme != "ring" or cores * inner > BATCH * HEADS:
        pytest.skip("nothing to exchange, or more places than heads")
    variant = mla(form, attention(by_head))
    q, latent, rotary, w_k, w_v = operands()
    wanted = [np.asarray(x) for x in variant.dense(q, latent, rotary, w_k, w_v)]
    finite = wanted[1][np.isfinite(wanted[1])]
    sizes = LatentSizes.of("mine", q, latent, rotary, w_k, w_v)
    tiles: dict[str, Any] = dict(**SMALL, every_hop=True, masks=256)
    mesh = dict(chips=chips, scheme=scheme, inner=inner, cores=cores)
    shared = None
    for placement in PLACEMENTS:
        own = variant.program(sizes, placement=placement, **mesh, **tiles)
        shared = shared or own
        assert own.attention.sizes == shared.attention.sizes
        of_sequences = (x.swapaxes(0, 1) for x in (latent, rotary))
        arguments = own.arguments(by_token(jnp.asarray(q)), *of_sequences, w_k, w_v)
        out, sums = own.attention.results(shared.program.run(*arguments))
        assert sums is not None
        given = [np.asarray(by_sequence(x, BATCH)) for x in (out, sums)]
        values, log_sum_exps = ([x] for x in given)
        largest = (float(np.abs(x).max()) for x in (wanted[0], finite))
        of_values, of_sums = (2e-6 * max(1.0, x) for x in largest)
        assert_near(values, wanted[:1], of_values)
        assert_near(log_sum_exps, wanted[1:], of_sums)
        ends = (np.where(np.isneginf(x), 0, x) for x in (*given, *wanted))
        out, sums, of_dense, dense_sums = ends
        errors = np.abs(out - of_dense).max(), np.abs(sums - dense_sums).max()
        print(
            f"{form} {mesh} {placement}: {errors[0]:.1e}, log-sum-exp {errors[1]:.1e}"
        )


@pytest.mark.parametrize(
    ("form", "mesh"),
    [
        ("absorbed", (1, "ring", 1, 2)),
        *(
            pytest.param(form, mesh, marks=pytest.mark.slow)
            for form in FORMS
            for mesh in (
                (2, "ring", 1, 2),
                (2, "all-gather", 1, 2),
                (2, "ulysses-ring", 2, 1),
            )
        ),
    ],
)
def test_gradients_through_prefill_are_those_of_dense(
    form: Any, mesh: tuple[int, str, int, int]
) -> None:
    """Of all five operands, of two heads; one chip compiles in a third of the time."""
    chips, scheme, inner, cores = mesh
    tokens, heads = 4 * chips, 2
    q, latent, rotary, *weights = operands()
    given = (
        q[:1, :heads, :tokens],
        latent[:1, :tokens],
        rotary[:1, :tokens],
        *(x[:, :heads] for x in weights),
    )
    variant = mla(form)
    rng = np.random.default_rng(1)
    of_out, of_sums = (
        rng.standard_normal((1, heads, tokens, *x)).astype(np.float32)
        for x in ((VALUE_DIM,), ())
    )

    def loss(out: Any, sums: Any) -> jax.Array:
        weighed = out * of_out.astype(out.dtype)
        return jnp.sum(weighed) + jnp.sum(sums * of_sums.astype(sums.dtype))

    def of_prefill(*xs: Any) -> jax.Array:
        where: dict[str, Any] = dict(
            chips=chips, scheme=scheme, inner=inner, cores=cores
        )
        return loss(*variant.prefill(*xs, placement="striped", **where, **SMALL))

    everything = tuple(range(5))
    options = {"xla_backend_optimization_level": 0}
    back = jax.jit(jax.grad(of_prefill, everything), compiler_options=options)
    found = back(*given)
    with jax.enable_x64(True):
        wide = [jnp.asarray(x, jnp.float64) for x in given]
        wanted = jax.grad(lambda *xs: loss(*variant.dense(*xs)), everything)(*wide)
    for one, other in zip(found, wanted, strict=True):
        # Roundings of the weights, and again of what is made of them on the way back.
        allowed = 8e-6 * max(1.0, float(np.abs(other).max()))
        np.testing.assert_allclose(one, other, rtol=0, atol=allowed)


def gate(b: Any, h: Any, q: Any, d: Any) -> Any:
    return (q + d + h) / 8 + b


def doubled(state: Any, b: Any, h: Any, q: Any, d: Any) -> Any:
    return 2.0 * state.output / state.total


def squared(state: Any, b: Any, h: Any, q: Any, d: Any) -> Any:
    return state.output * state.output / state.total


def over_values(state: Any, b: Any, h: Any, q: Any, d: Any) -> Any:
    return state.total / state.output


LAST_STEPS = {
    "learned_sink": (variants.learned_sink(np.ones(HEADS, np.float32)), True),
    "off_by_one": (variants.off_by_one(), True),
    "sigmoid": (variants.sigmoid(KEYS), True),
    "doubled": (attention.monoid(finish=doubled), True),
    "gated": (variants.gated(gate), False),
    "squared": (attention.monoid(finish=squared), False),
    "over_values": (attention.monoid(finish=over_values), False),
}


@pytest.mark.parametrize("name", LAST_STEPS)
def test_last_steps_that_are_not_a_number_times_the_values_are_refused(
    name: str,
) -> None:
    """Absorbed, the last step is of means of latents, which are made values of after it."""
    variant, scales = LAST_STEPS[name]
    assert variant.reading.fold is not None
    assert variant.reading.fold.scales_values == scales
    if scales:
        return
    q, *others = operands()
    with pytest.raises(LimitExceeded, match="prefill, absorbed, takes the last step"):
        mla("absorbed", variant).prefill(q, *others)
    with pytest.raises(LimitExceeded, match="decode, which is absorbed, takes"):
        mla("expanded", variant).decode(q[:, :, -1:], *others)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "name"), [("absorbed", "learned_sink"), ("expanded", "gated")]
)
def test_last_steps(form: Any, name: str) -> None:
    variant, scales = LAST_STEPS[name]
    q, *others = operands()
    if scales:
        newest = q[:, :, -1:]
        decoded = mla(form, variant).decode(newest, *others, rows=3, parts=2)
        row = mla(form, variant).dense(newest, *others, q_offset=KEYS - 1)
        assert_near(
            decoded, row, 2e-6 * max(1.0, float(np.abs(np.asarray(row[1])).max()))
        )
    given = mla(form, variant).prefill(*operands(), chips=2, cores=2, **SMALL)
    wanted = mla(form, variant).dense(*operands())
    allowed = 2e-6 * max(1.0, float(np.abs(np.asarray(wanted[1])).max()))
    assert_near(given, wanted, allowed)


@pytest.mark.parametrize(("rows", "parts"), [(3, 2), (9, 1), (25, 4)])
@pytest.mark.parametrize("begin", [KEYS - 1, 1])
def test_decode(rows: int, parts: int, begin: int) -> None:
    """Of 4 heads: on 3 rows a row has two or none, on 25 a quarter of one's features or less."""
    q, *others = operands()
    newest = q[:, :, -1:]
    given = mine("absorbed").decode(
        newest, *others, rows=rows, parts=parts, position=begin
    )
    wanted = head_by_head((newest, *others), begin)
    assert_near(given, wanted, 2e-6 * max(1.0, float(np.abs(wanted[0]).max())))


def test_shares_of_rows() -> None:
    """The example of `Share`: 4 heads of 8 features on 17 rows, and on 3."""
    share = Share(heads=4, features=8, rows=17)
    assert (share.rows_a_head, share.width, share.used_rows) == (4, 2, 16)
    heads, first = jax.vmap(
        lambda _: (share.head_at(0), share.first_feature), axis_name="row"
    )(np.arange(17))
    assert np.asarray(heads).tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4 + [0]
    assert np.asarray(first).tolist() == [0, 2, 4, 6] * 4 + [0]
    x = np.arange(32).reshape(4, 8)
    assert share.dealt(x)[5].tolist() == [10, 11] and not share.dealt(x)[16].any()
    for rows in (17, 3, 4, 1):
        share = dataclasses.replace(share, rows=rows)
        by_row = share.dealt(x).reshape(rows, share.heads_a_row, share.width)
        np.testing.assert_array_equal(share.collected(by_row), x)


def test_gradients_of_all_operands() -> None:
    """Of dense along a random direction, against central differences of the reference."""
    rng = np.random.default_rng(1)
    along = [rng.standard_normal(x.shape) for x in operands()]
    weights = rng.standard_normal((BATCH, HEADS, QUERIES, VALUE_DIM))

    def loss(*given: Any) -> jax.Array:
        out, _ = mine("absorbed").dense(*given)
        return jnp.sum(out * weights)

    everything = tuple(range(5))
    with jax.enable_x64(True):
        wide = [jnp.asarray(x, jnp.float64) for x in operands()]
        gradients = jax.grad(loss, everything)(*wide)
    step = 1e-5
    for place, gradient in enumerate(gradients):
        ends = []
        for sign in (1, -1):
            moved = [np.asarray(x, float) for x in operands()]
            moved[place] = moved[place] + sign * step * along[place]
            ends.append(np.sum(head_by_head(tuple(moved))[0] * weights))
        slope = (ends[0] - ends[1]) / (2 * step)
        given = np.sum(np.asarray(gradient) * along[place])
        assert given == pytest.approx(slope, rel=1e-6, abs=1e-6)


# --- what the machines do ---

SIZES = LatentSizes(
    batch=1,
    heads=4,
    queries=512,
    keys=512,
    nope=32,
    rope=16,
    rank=64,
    value_dim=32,
)


def program(form: Any, mask: Any = masks.full) -> Any:
    sizes: dict[str, Any] = dict(chips=4, placement="contiguous", dtype=jnp.bfloat16)
    return mla(form, attention(mask)).program(SIZES, **sizes)


def test_products_are_those_of_the_closed_forms() -> None:
    """Every pair meets under a full mask: 512 queries, 512 keys, 4 hops of 128 keys a rank."""
    pairs, of_all = 512 * 512, 4 * 512
    of_head = 2 * 64 * (32 + 32)  # rank · (nope + value_dim)
    expanded = program("expanded").read(TRN3.at()).tally.by("flops")["trn.nc_matmul"]
    # Each of 4 ranks expands all 512 keys anew, for 4 heads.
    attended = 2 * (32 + 16 + 32) * 4 * pairs
    assert expanded == attended + 4 * of_head * of_all
    absorbed = program("absorbed").read(TRN3.at()).tally.by("flops")["trn.nc_matmul"]
    # Each query is absorbed and projected once.
    attended = 2 * (64 + 16 + 64) * 4 * pairs
    assert absorbed == attended + of_head * of_all


@pytest.mark.parametrize("form", FORMS)
def test_latents_alone_cross_links(form: str) -> None:
    """4 ranks send 128 tokens three times on, of 64 + 16 features of two bytes."""
    clock = program(form).read(TRN3.at())
    assert clock.tally.by("other")["link_bytes"] == 4 * 3 * 128 * (64 + 16) * 2


def test_a_latent_is_stored_once_and_projections_are_on_the_wafer() -> None:
    """Of 16 rows and 4 columns: products before, with latents, and after."""
    sizes = DecodeSizes(
        heads=4,
        kv_heads=1,
        head_dim=80,
        value_dim=64,
        context=512,
        values_are_keys=True,
    )
    reading = attention(masks.full).reading
    plan = latent_decode(
        reading, sizes, nope=32, value_dim=24, device=WSE3.at(), rows=16, parts=4
    )
    # 512 keys on 16 rows are 32 a row; a stride of 32 is as fast as none.
    assert plan.plan.map.cache_shapes() == {"k": (20, 32)}
    flops = plan.read().tally.by("flops")
    # 4 heads: nope and value_dim over a rank of 64, on 4 rows a head.
    assert flops["wse.fmac_map"] == 2 * 64 * 4 * (32 + 24)
    assert flops["wse.score_map"] == 2 * 80 * 4 * 512
    assert flops["wse.value_map"] == 2 * 64 * 4 * 512


def test_strides_that_are_slow_are_passed_over() -> None:
    """36 keys a row would be 4 modulo 8."""
    sizes = DecodeSizes(
        heads=4, kv_heads=1, head_dim=80, value_dim=64, context=36, values_are_keys=True
    )
    reading = attention(masks.full).reading
    plan = latent_decode(
        reading, sizes, nope=8, value_dim=8, device=WSE3.at(), rows=1, parts=4
    )
    assert plan.plan.map.held_slots == 37
    v, p = jnp.ones((3, 36)), jnp.ones((2, 36))
    with pytest.raises(LimitExceeded, match="stride is 36, must be 1 to 127 and not 4"):
        value_map(jnp.zeros((2, 3)), v, p, jnp.int32(36), stride=36)


def test_time_is_of_both_machines_and_in_bands() -> None:
    found = mla().time(tokens=256, heads=2, head_dim=16, chips=2, rows=8, parts=2)
    for seconds in (found.prefill.seconds, found.decode.seconds):
        assert 0 < seconds["low"] <= seconds["nominal"] <= seconds["high"]
    assert found.prefill.chips == 2 and found.prefill.cores == 1
    assert sum(found.decode.spent.values()) == found.decode.cycles["nominal"]


@pytest.mark.slow
def test_explanation() -> None:
    found = mla().explain(tokens=256, heads=2, head_dim=16, chips=2, rows=8, parts=2)
    assert found.name == "mla expanded" and found.mask == "causal"
    assert (found.tiles, found.live) == (4, 3)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_all_forms_agree(form: str) -> None:
    report = mine(form).check()
    assert report.agrees, report


def test_what_does_not_fit_is_refused() -> None:
    q, latent, *others = operands()
    with pytest.raises(LimitExceeded, match="must be .batch, heads, queries"):
        mine("absorbed").prefill(q, latent[:, :4], *others)
    with pytest.raises(
        LimitExceeded, match="8 heads .* over 3 places, cores of a rank"
    ):
        mine("absorbed").prefill(*operands(), chips=3, scheme="ulysses")
    with pytest.raises(LimitExceeded, match="form is 'folded', must be one of"):
        mla("folded")  # type: ignore[arg-type]
    with pytest.raises(LimitExceeded, match="kv_heads is 2, must be None or 4"):
        mla().time(tokens=64, heads=4, kv_heads=2)
    q, *others = operands()
    with pytest.raises(DoesNotFit, match="latents take .* and weights"):
        wide = np.zeros((RANK, HEADS, 4096), np.float32)
        *others, _ = others
        mine("absorbed").decode(q[:, :, -1:], *others, wide, rows=2, parts=1)
