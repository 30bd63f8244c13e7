"""A layer's prefill, program by program: values against the oracle, work against closed forms."""

import functools
import pathlib
import time

import jax.numpy as jnp
import numpy as np
import pytest

from emu.errors import LimitExceeded
from emu.trainium import TRN3, with_cores
from emu.trainium.links.collectives import reduce_all
from kernels.formats.coding import as_held
from kernels.trainium.stages.latent import LatentForm
from models.configurations import published
from models.errors import ModelError
from models.held_bytes import held_as
from models.loading.load import load
from models.machines.layer_on_numbers import run, run_behind
from models.machines.layer_stages import LayerStages
from models.machines.layer_time import (
    even_counts,
    feed_forward_times,
    layer_time,
    worst_counts,
)
from models.plain.attention import Positions
from models.plain.rope import rope_tables
from models.plain.transformer import Call, Kind, layer_block
from models.precision import Taken, precision
from tests.kernels.moe.mixture_counts import hbm_bytes, matmul_flops, matrix_bytes
from tests.kernels.trainium.context.ring_bytes import (
    DEAD,
    MASKED,
    WHOLE,
    Core,
    Latents,
    ring_bytes,
)

DATA = pathlib.Path(__file__).parents[1] / "data"
# Largest error of the largest value. Sums are of at most 48 products, so roundings of float32
# (2**-24 each) add up to some 7 of them in each of six products one behind the other, and those of
# queries and keys are multiplied by scores of up to about 10.
WITHIN = 1e-5
TOKENS = 16
EXPERT_TILES = {"tile_rows": 16, "tiles_at_once": 2}


@functools.cache
def tiny(name):
    return load(DATA / name)


def weights_of(model, layer):
    config = model.config
    return {
        name: np.asarray(stack)[config.layers_with[name].index(layer)]
        for name, stack in model.weights["layers"].items()
        if layer in config.layers_with[name]
    }


def expected(model, layer, x, plan=None):
    """The oracle's layer of `[tokens, hidden]`, in float32 or as a plan holds it."""
    config, own = model.config, jnp.arange(len(x), dtype=jnp.int32)
    tables = {}
    for each in config.rotations:
        cos, sin = rope_tables(config, own, len(x), each)
        tables[each] = jnp.asarray(cos), jnp.asarray(sin)
    at = Positions(own, own, b=jnp.zeros(1, jnp.int32), q=own, k=own)
    weights, held = weights_of(model, layer), Taken()
    if plan is not None:
        held = plan.taken
        formats = {t.name: held_as(t, plan) for t in config.layer_tensors}
        for name in weights:
            if formats[name].is_coded:
                weights[name] = np.asarray(as_held(weights[name], formats[name]))
    weights = {name: jnp.asarray(w) for name, w in weights.items()}
    kind = Kind(config.forms[layer], None)
    call = Call(config, at, tables, held=held)
    y, _, _ = layer_block(
        call, kind, weights, jnp.asarray(x)[None], lambda k, v: (k, v)
    )
    return np.asarray(y[0])


def error_of(name, layer, chips, cores, **options):
    model = tiny(name)
    weights = weights_of(model, layer)
    hidden = model.config.hidden_size
    x = np.random.default_rng(3).normal(size=(TOKENS, hidden)).astype(np.float32)
    stages = LayerStages(
        model.config,
        layer,
        TOKENS,
        chips,
        cores,
        jnp.float32,
        sinks=weights.get("sinks"),
        expert_options=EXPERT_TILES,
        **options,
    )
    wanted = expected(model, layer, x)
    assert np.abs(wanted - x).max() > 0.1 * np.abs(x).max()
    return np.abs(run(stages, x, weights) - wanted).max() / np.abs(wanted).max()


@pytest.mark.parametrize(
    "name, layer, chips, cores, options",
    [
        # Groups of experts with a selection bias and a shared expert, YaRN, a latent of queries.
        ("deepseek_v3", 1, 2, 2, {}),
        # Biases, sinks, a window, clamped SwiGLU.
        ("gpt_oss", 0, 2, 2, {}),
    ],
)
def test_values(name, layer, chips, cores, options):
    assert error_of(name, layer, chips, cores, **options) < WITHIN


@pytest.mark.parametrize(
    "name, layer, chips, cores, tensor",
    [
        ("deepseek_v3", 1, 2, 1, 2),  # latents, a mixture whose rows are joined
        ("qwen3_gqa_tied", 1, 2, 2, 2),  # an MLP
        pytest.param("deepseek_v3", 0, 1, 2, 2, marks=pytest.mark.slow),
        pytest.param("gpt_oss", 1, 2, 2, 2, marks=pytest.mark.slow),
        pytest.param("qwen3_moe", 1, 2, 2, 2, marks=pytest.mark.slow),
        pytest.param("mixtral", 0, 2, 1, 4, marks=pytest.mark.slow),
    ],
)
def test_values_where_chips_share_heads(name, layer, chips, cores, tensor):
    """Two chips at each place of the ring, or four, with half or a fourth of the heads."""
    assert error_of(name, layer, chips, cores, tensor=tensor) < WITHIN


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, layer, chips, cores, options",
    [
        ("deepseek_v3", 0, 1, 1, {}),  # an MLP
        ("deepseek_v3", 0, 2, 4, {}),
        ("deepseek_v3", 2, 4, 1, {"latent_form": "absorbed"}),
        ("gpt_oss", 1, 1, 4, {}),  # each KV head on two cores
        ("qwen3_moe", 1, 2, 2, {}),  # norms of heads
        ("qwen3_gqa_tied", 1, 2, 1, {}),
        ("mixtral", 0, 2, 2, {}),
        ("phi3_partial", 0, 1, 2, {}),  # RoPE of a part of each head
    ],
)
def test_values_of_other_families(name, layer, chips, cores, options):
    assert error_of(name, layer, chips, cores, **options) < WITHIN


@pytest.mark.slow
@pytest.mark.parametrize("name, layer", [("qwen3_gqa_tied", 1), ("deepseek_v3", 1)])
def test_chunks_are_the_whole_prompt(name, layer):
    """Two chunks, the second behind the keys of the first, give what the whole prompt does."""
    model = tiny(name)
    config, weights = model.config, weights_of(model, layer)
    x = np.random.default_rng(3).normal(size=(TOKENS, config.hidden_size))
    x = x.astype(np.float32)
    made, cache, half = [], None, TOKENS // 2
    for begin in (0, half):
        stages = LayerStages(
            config,
            layer,
            half,
            2,
            2,
            jnp.float32,
            expert_options=EXPERT_TILES,
            attention_options={"placement": "striped"},
            cached=begin,
        )
        out, cache = run_behind(stages, x[begin : begin + half], weights, cache)
        made.append(out)
    whole = LayerStages(
        config, layer, TOKENS, 2, 2, jnp.float32, expert_options=EXPERT_TILES
    )
    _, of_whole = run_behind(whole, x, weights, None)
    assert cache is not None
    for own, wanted in zip(cache, of_whole, strict=True):
        np.testing.assert_allclose(own, wanted, atol=WITHIN * np.abs(wanted).max())
    wanted = expected(model, layer, x)
    assert np.abs(np.concatenate(made) - wanted).max() < WITHIN * np.abs(wanted).max()
    with pytest.raises(ModelError, match="a cache of 0 tokens"):
        run_behind(stages, x[half:], weights, None)


def rms(x):
    return np.sqrt(np.square(x).mean())


def agrees_under(name, layer, words, chips, cores):
    """A stage's result differs from that of the formats' numbers as bfloat16 does, see
    `test_prefill_precision`: what it rounds off is the next element of MX here and there."""
    model, plan = tiny(name), precision(words)
    weights = weights_of(model, layer)
    x = np.random.default_rng(3).normal(size=(TOKENS, model.config.hidden_size))
    x = x.astype(jnp.bfloat16).astype(np.float32)
    stages = LayerStages(
        *(model.config, layer, TOKENS, chips, cores, plan),
        sinks=weights.get("sinks"),
        expert_options=EXPERT_TILES,
    )
    exact, blocks = (expected(model, layer, x, each) for each in (None, plan))
    found = run(stages, x, weights)
    formats = rms(blocks - exact)
    assert formats > 0.02 * rms(exact - x)
    assert rms(found - exact) < 1.5 * formats
    assert rms(found - blocks) < formats


def test_values_of_experts_in_mxfp4():
    """gpt-oss's checkpoint; its attention's products, in MXFP8, are on one core."""
    words = "weights=mxfp8,experts=mxfp4,activations=mxfp8"
    agrees_under("gpt_oss", 0, words, 1, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, layer, words, chips, cores",
    [
        ("gpt_oss", 1, "experts=mxfp4,activations=mxfp8", 2, 2),
        ("mixtral", 0, "mxfp8", 2, 1),
        ("llama_mha_untied", 1, "mxfp8", 2, 1),  # an MLP
        ("deepseek_v3", 1, "experts=mxfp8,activations=mxfp8", 1, 2),
    ],
)
def test_values_of_other_families_in_mx(name, layer, words, chips, cores):
    agrees_under(name, layer, words, chips, cores)


# --- closed forms ---


def projection_flops(stages):
    """Of all chips: down projections once a chip, padded to equal columns; heads of all cores."""
    form, cores = stages.projection_form, stages.cores
    tokens, hidden = stages.tiling.tokens, stages.tiling.hidden_padded
    if not isinstance(form, LatentForm):
        return 2 * stages.chips * tokens * hidden * form.width * cores
    of_heads = cores * form.heads * form.latent.key_width
    inputs = hidden if form.latent.query_rank is None else form.latent.query_rank
    return (
        2 * stages.chips * tokens * (hidden * cores * form.own_down + inputs * of_heads)
    )


def output_flops(stages):
    heads = stages.config.num_attention_heads * stages.config.value_dim
    return 2 * stages.tokens * heads * stages.tiling.hidden_padded


def status_of(stages):
    """Pairs of a chip's queries and a chip's keys, 128 tokens each: whole, masked or dead.

    Queries see their own keys as far as they have come, all keys before, and with a window of 128
    tokens the later ones of the 128 before.
    """
    own, other = np.ogrid[: stages.chips, : stages.chips]
    before = WHOLE * (other < own)
    window = stages.form.attention.window
    if window is not None:
        assert window == 128
        before = MASKED * (other == own - 1)
    status = before + MASKED * (other == own)
    return status[:, None, :, None]


def attention_core(stages):
    """Sizes of a core's attention, see `ring_bytes`."""
    attention, latent = stages.form.attention, stages.form.attention.latent
    if latent is None:
        return Core.of(stages.attention.sizes, tables=int(attention.has_sinks))
    made = stages.heads * (latent.plain + latent.value_dim)
    weights = matrix_bytes(latent.rank, made, stages.mx, 2)
    of_latents = Latents(latent.rank, latent.plain, weights)
    return Core.of(stages.attention.attention.sizes, latents=of_latents)


def attention_flops(stages):
    """Of live pairs of a query tile and a key tile, 128 tokens each.

    Expanded, a chip makes keys and values of the latents of every key tile that it attends to.
    """
    config, latent = stages.config, stages.form.attention.latent
    both = config.key_dim + config.value_dim
    pairs = 2 * 128 * 128 * both
    expanded = 0
    if latent is not None:
        made = latent.plain + latent.value_dim
        expanded = 2 * 128 * latent.rank * made
    live = (status_of(stages) > DEAD).sum()
    return live * config.num_attention_heads * (pairs + expanded)


def weight_bytes(stages, names):
    """Of some weights, once a chip, as they are held."""
    shapes = stages.config.shape_of
    of_layer = {t.name: t for t in stages.config.layer_tensors}
    each = (
        held_as(of_layer[name], stages.precision).held_bytes(*shapes(of_layer[name]))
        for name in names
    )
    return stages.chips * sum(each)


# --- bytes: of one core, in 16 bits, all of its chip's tokens one tile ---


def packed(stages, rows, columns):
    """A matrix of any product but experts'."""
    return matrix_bytes(rows, columns, stages.mx, 2) // 2


def projection_bytes(stages):
    """HBM of all cores. A norm's weight or a bias is read once for each row of a tile."""
    form, tiling = stages.projection_form, stages.tiling
    rows, cores = tiling.rows, stages.cores
    assert tiling.token_tiles == 1
    hidden = tiling.hidden_padded
    x, norm = rows * hidden, rows * hidden
    table = 2 * rows * stages.table_struct.shape[-1] * 2  # float32, in 16 bits
    if not isinstance(form, LatentForm):
        bias = 2 * rows * form.width
        matrix = packed(stages, hidden, form.width)
        moved = x + norm + matrix + bias + table + rows * form.width
        return 2 * stages.chips * cores * moved
    own, whole = rows * form.own_down, rows * form.own_down * cores
    of_heads = form.heads * form.latent.key_width
    read = (
        x
        + norm
        + packed(stages, hidden, form.own_down)
        + whole
        + rows * form.latent.rank
        + 2 * table
    )
    assert form.latent.query_rank is not None
    read += rows * form.latent.query_rank
    read += packed(stages, form.latent.query_rank, of_heads)
    written = own + rows * (of_heads + form.latent.cached_width)
    # Each core reads and writes every other's columns once.
    gathered = 2 * (cores - 1) * own
    return 2 * stages.chips * cores * (read + written + gathered)


def residual_bytes(stages, features, weights):
    """HBM of all cores, of `x + features · matrix`.

    Args:
      stages: the layer.
      features: read of each row besides.
      weights: of a core.
    """
    tiling, chip = stages.tiling, with_cores(TRN3, stages.cores).at()
    part = tiling.tokens * tiling.hidden_padded
    share = reduce_all(chip, stages.cores, 2 * part)
    summed = round((share.reads + share.writes) * part / stages.cores)
    # The part is stored; x and the sum are read, and the next x is stored.
    moved = tiling.tokens * features + weights + part + summed + 3 * part
    return 2 * stages.chips * stages.cores * moved


def output_bytes(stages):
    of_heads = stages.heads * stages.config.value_dim
    hidden = stages.tiling.hidden_padded
    bias = 0
    if stages.form.attention.output_is_biased:
        bias = 2 * stages.tiling.rows * hidden
    matrix = packed(stages, of_heads, hidden)
    return residual_bytes(stages, of_heads, matrix + bias)


def mlp_bytes(stages):
    hidden = stages.tiling.hidden_padded
    features = stages.config.intermediate_size // stages.cores
    norm_and_x = 2 * hidden
    return residual_bytes(stages, norm_and_x, 3 * hidden * features)


def sent_blocks(stages):
    """Of a ring: every live tile but a chip's own arrives from the chip before."""
    return int((status_of(stages) > DEAD).sum()) - stages.chips


def attention_bytes(stages):
    moved = ring_bytes(attention_core(stages), status_of(stages), sent_blocks(stages))
    return stages.cores * moved


def attention_link_bytes(stages):
    """Keys and values of a core's heads, or latents, which every core has of all tokens."""
    block = attention_core(stages).block_bytes
    return sent_blocks(stages) * block * stages.cores


def mixture_bytes(stages, counts):
    """HBM of all cores: of the mixture, of the norm before it and of the residual."""
    chip, padded = with_cores(TRN3, stages.cores).at(), stages.tiling.hidden_padded
    tokens = stages.tokens // stages.chips
    # The norm's weight in every row; x twice, h, the mixture's sum and the next x.
    around = stages.moe.form(counts).rows * padded + 5 * tokens * padded
    everywhere = 2 * stages.chips * stages.cores * around
    return sum(hbm_bytes(stages.moe, counts, chip)) + everywhere


def mixture_link_bytes(stages, counts):
    """Rows that other chips have the experts of, there and back; counts of all chips to all."""
    form = stages.moe.form(counts)
    number = np.arange(form.routing.experts)
    at_home = number % form.period == np.arange(stages.chips)[:, None] % form.period
    rows = counts[~at_home].sum()
    told = 4 * form.routing.experts * stages.chips * (stages.chips - 1) * stages.cores
    return 2 * 2 * rows * form.hidden_padded + told


MX_EXPERTS = "experts=mxfp4,activations=mxfp8"
FULL = [
    ("deepseek-v3", 10, "bfloat16"),
    ("gpt-oss-120b", 0, "bfloat16"),  # a window
    ("gpt-oss-120b", 0, f"weights=mxfp8,{MX_EXPERTS}"),
    *(
        pytest.param(*each, marks=pytest.mark.slow)
        for each in (
            ("deepseek-v3", 0, "bfloat16"),  # an MLP
            ("kimi-k2", 10, "bfloat16"),
            ("gpt-oss-120b", 1, "bfloat16"),
            ("gpt-oss-120b", 1, MX_EXPERTS),
            ("deepseek-v3", 10, MX_EXPERTS),
            ("deepseek-v3", 10, "mxfp8"),
        )
    ),
]


def full(name, layer, words="bfloat16"):
    return LayerStages(published(name).config, layer, 8192, 64, 8, precision(words))


@pytest.mark.parametrize("name, layer, words", FULL)
def test_full_size_layers(name, layer, words):
    """8,192 tokens on 64 chips of 8 cores: closed forms, and CPU time of the whole reading."""
    stages = full(name, layer, words)
    begin = time.process_time()
    clock = layer_time(stages)
    # Some 6 s; no more than 10 s are promised of a machine twice as fast as the slowest known.
    assert time.process_time() - begin < 20
    projections, attention, output, fed = clock.stages
    assert projections.matmul_flops == projection_flops(stages)
    assert attention.matmul_flops == attention_flops(stages)
    assert output.matmul_flops == output_flops(stages)
    assert projections.hbm_bytes == projection_bytes(stages)
    assert output.hbm_bytes == output_bytes(stages)
    assert attention.hbm_bytes == attention_bytes(stages)
    assert attention.link_bytes == attention_link_bytes(stages)
    latent = stages.form.attention.latent
    of_attention = ("wq_down", "wq_up", "wkv_down") if latent else ("wq", "wk", "wv")
    least = [(projections, of_attention), (output, ("wo",))]
    if stages.moe is None:
        least.append((fed, ("w_gate", "w_up", "w_down")))
        features = 2 * 3 * stages.tokens * stages.config.hidden_size
        assert fed.matmul_flops == features * stages.config.intermediate_size
        assert fed.hbm_bytes == mlp_bytes(stages)
        assert fed.link_bytes == 0
    else:
        least.append((fed, ("router",)))
        counts = even_counts(stages)
        assert fed.matmul_flops == matmul_flops(stages.moe, counts)
        assert fed.link_bytes == mixture_link_bytes(stages, counts)
        assert fed.hbm_bytes == mixture_bytes(stages, counts)
    # Every weight comes from HBM at least once on each chip, and no faster than HBM gives; matmuls
    # are no faster than the Tensor Engine's peak.
    chip = with_cores(TRN3, 8).at()
    for stage, names in least:
        nbytes = weight_bytes(stages, names)
        assert stage.hbm_bytes > nbytes
        assert stage.seconds["nominal"] > nbytes / 64 / chip.hbm_bytes_per_s
    for stage in clock.stages:
        wide = stage.matmul_flops - stage.mx_flops
        least = wide / chip.bf16_flops_per_s + stage.mx_flops / chip.fp8_flops_per_s
        assert stage.seconds["nominal"] > least / (64 * 8)
    assert projections.link_bytes == output.link_bytes == 0
    for band in ("low", "nominal", "high"):
        each = [stage.seconds[band] for stage in clock.stages]
        assert clock.seconds[band] == pytest.approx(sum(each))


def test_the_same_experts_for_every_token():
    """One tile of each expert is all that gpt-oss has with even counts; then 64 of four experts."""
    stages = full("gpt-oss-120b", 0)
    even, worst = even_counts(stages), worst_counts(stages)
    assert even.sum() == worst.sum() == 8192 * 4
    assert even.sum(0).tolist() == [256] * 128
    first, last = (feed_forward_times(stages, x)[0] for x in (even, worst))
    assert first.matmul_flops == matmul_flops(stages.moe, even)
    assert last.matmul_flops == matmul_flops(stages.moe, worst)
    assert last.hbm_bytes == mixture_bytes(stages, worst)
    assert last.seconds["nominal"] > 4 * first.seconds["nominal"]


def test_totals_of_experts_are_dealt_to_chips():
    stages = full("gpt-oss-120b", 0)
    totals = even_counts(stages).sum(0)
    assert feed_forward_times(stages, totals) == feed_forward_times(stages)


def test_what_no_stage_computes_is_refused():
    config = published("gpt-oss-120b").config
    with pytest.raises(ModelError, match="layer 36, must be 0 to 35"):
        LayerStages(config, 36, 8192, 64, 8)
    with pytest.raises(ModelError, match="8001 tokens over 64"):
        LayerStages(config, 0, 8001, 64, 8)
    with pytest.raises(ModelError, match="norms of outputs"):
        LayerStages(published("gemma-3-4b").config, 0, 64, 1, 1)
    with pytest.raises(ModelError, match="in MX or in one wide dtype.*take mxfp8"):
        LayerStages(published("llama-3.1-8b").config, 0, 128, 1, 8, precision("fp8"))
    odd = LayerStages(tiny("qwen3_gqa_tied").config, 1, 16, 1, 1, precision("mxfp8"))
    with pytest.raises(LimitExceeded, match="4 heads of 12 features in MX"):
        odd.around_attention()
    dense = LayerStages(published("llama-3.1-8b").config, 0, 128, 1, 8)
    with pytest.raises(ModelError, match="has no experts"):
        layer_time(dense, np.ones(8, int))
