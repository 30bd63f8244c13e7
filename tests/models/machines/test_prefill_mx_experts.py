"""Prefill of experts and latents under plans of precision: values, bytes, refusals."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu.trainium import TRN3, with_cores
from kernels.formats.formats import FORMATS
from models.errors import ModelError
from models.layer_form import Latent
from models.loading.load import load
from models.machines.precisions import prefilled_as
from models.machines.prefill import Prefill
from models.plain import oracle
from models.plain.held import held_weights
from models.plain.kv_cache import empty_cache
from models.precision import Taken, precision
from tests.models.conftest import DATA
from tests.models.machines.test_latent_prefill import LATENTS
from tests.models.machines.test_prefill import prompt_of, structs_of
from tests.models.machines.test_prefill_forms import weights_of

GPT_OSS = "experts=mxfp4,activations=mxfp8"  # its checkpoint's, with products in MX
APART = "weights=mxfp8,experts=mxfp4,activations=mxfp8"


@functools.cache
def first_layer(name):
    """A model of one layer, the first of the reference folder's."""
    model = load(DATA / name)
    changes: dict[str, Any] = {"num_hidden_layers": 1}
    if model.config.layer_types is not None:
        changes["layer_types"] = model.config.layer_types[:1]
    config = dataclasses.replace(model.config, **changes)
    layers = {
        tensor.name: np.asarray(model.weights["layers"][tensor.name])[:1]
        for tensor in config.layer_tensors
    }
    return config, {**model.weights, "layers": layers}


def machine_of(config, words, *, tokens=16, chips=1, cores=1):
    """On shapes of weights."""
    return Prefill(
        config,
        structs_of(config),
        tokens=tokens,
        chips=chips,
        cores=cores,
        dtype=precision(words),
    )


def logits(config, weights, tokens, held=Taken()):
    """The oracle's last ones."""
    ids = jnp.asarray([prompt_of(config, tokens)], jnp.int32)
    cache = empty_cache(config, 1, tokens)
    found, _ = oracle.jitted_extend(config, weights, ids, cache, None, held)
    return np.asarray(found[0, -1])


def rms(x):
    return np.sqrt(np.square(x).mean())


def agrees(config, weights, words, chips, cores):
    """As far from float32 as the formats, and nearer to the formats: see `test_prefill_precision`,
    where products agree to bfloat16."""
    plan = precision(words)
    exact = logits(config, weights, 12)
    blocks = logits(config, held_weights(config, weights, plan), 12, plan.taken)
    machine = Prefill(config, weights, tokens=12, chips=chips, cores=cores, dtype=plan)
    found = machine.run(prompt_of(config, 12)).logits
    formats = rms(blocks - exact)
    assert formats > 0.05 * rms(exact)
    assert rms(found - exact) < 1.5 * formats
    assert rms(found - blocks) < formats


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, words, chips, cores",
    [
        ("gpt_oss", GPT_OSS, 2, 2),
        ("gpt_oss", APART, 1, 1),
        ("mixtral", "mxfp8", 1, 1),
    ],
)
def test_agrees_with_the_oracle_in_blocks(name, words, chips, cores):
    agrees(*first_layer(name), words, chips, cores)


@pytest.mark.slow
@pytest.mark.parametrize("query_rank, chips, cores", [(24, 1, 1), (None, 2, 2)])
def test_latents_agree_with_the_oracle_in_blocks(query_rank, chips, cores):
    """DeepSeek-V3's attention before an MLP: latents of 20 features are 5 partitions, of 32."""
    latent = Latent(query_rank=query_rank, rank=20, plain=12, turned=8, value_dim=32)
    config = dataclasses.replace(LATENTS, latent=latent)
    agrees(config, weights_of(config), "mxfp8", chips, cores)


def wide_config():
    """gpt-oss's first layer with sizes that are whole tiles of MX."""
    config, _ = first_layer("gpt_oss")
    assert config.experts is not None
    experts = dataclasses.replace(config.experts, width=512)
    return dataclasses.replace(
        config, hidden_size=512, num_attention_heads=8, head_dim=64, experts=experts
    )


def nbytes(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    "words, attention, experts", [(GPT_OSS, None, "mxfp4"), (APART, "mxfp8", "mxfp4")]
)
def test_each_part_takes_its_own_format_s_bytes(words, attention, experts):
    """Experts' matrices in theirs, attention's in its own, and the router in bfloat16."""
    config = wide_config()
    machine = machine_of(config, words, chips=2, cores=2)
    (packed,) = machine.weights["layers"]
    assert config.experts is not None
    mixture, count = packed["mixture"], config.experts.count
    assert mixture.router.matrix.dtype == jnp.bfloat16
    own = mixture.experts
    of_one = 3 * FORMATS[experts].held_bytes(512, 512)
    # Every expert on one core of four.
    assert nbytes((own.up.gate, own.up.up, own.down)) == count * of_one
    kv_heads = max(config.num_key_value_heads, 2)
    matrices = (512, (8 + 2 * kv_heads) * 64), (8 * 64, 512)
    held = FORMATS[attention or "bfloat16"]
    expected = sum(held.held_bytes(*shape) for shape in matrices)
    assert nbytes((packed["wqkv"], packed["wo"])) == expected


def test_clock():
    """Experts' products are in MX, attention's are not; jumping equals stepping."""
    config, _ = first_layer("gpt_oss")
    machine = machine_of(config, GPT_OSS, cores=2)
    device = with_cores(TRN3, 2).at()
    clock = machine.read(device).clock
    assert clock.end_ticks == machine.read(device, jump=False).clock.end_ticks
    # 32 features, and an expert's 16, are 128 with padding; eight rows of each of four experts,
    # which take them all at a time.
    assert machine.tiling.hidden_padded == 128
    assert machine.experts is not None
    form = machine.experts.form(machine.experts.counts())
    assert (form.hidden_padded, form.ffn_tiles) == (128, (4, 32))
    rows = 4 * form.tile_rows
    flops = clock.tally.by("flops")["trn.nc_matmul_mx"]
    assert flops == 2 * 3 * rows * 128 * 128


def test_what_has_no_kernels_is_refused():
    config, _ = first_layer("gpt_oss")
    for words, match in (
        ("experts=mxfp4", "'experts=mxfp4' has no kernels.*experts alone"),
        ("experts=int8", "'experts=int8' has no kernels"),
    ):
        with pytest.raises(ModelError, match=match):
            machine_of(config, words)
        # Both machines: prefill has the numbers that the codes stand for.
        assert prefilled_as(precision(words), config, 1).is_plain
    deepseek = load(DATA / "deepseek_v3").config
    with pytest.raises(ModelError, match="shared experts of whole groups of 32"):
        machine_of(deepseek, "mxfp8", cores=2)
    dense = load(DATA / "qwen3_gqa_tied").config
    with pytest.raises(ModelError, match="has no experts to be held apart"):
        machine_of(dense, GPT_OSS)
