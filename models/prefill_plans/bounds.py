"""Times that no plan can beat, from sizes alone: products at the peak of all cores, weights that a
chip reads at the peak of its HBM, sums that chips of a place send at that of their links.

They leave plans out of a search without a look at their clocks: a plan whose bound is longer than
another plan's time cannot be better. A layer's stages follow one another, each as long as the
slowest of the three. Products with weights are at the peak of MX where any are in MX, those of
allowed pairs of queries and keys at that of the wide dtype; every chunk reads all matrices but
experts', which may not be chosen; and a stage has one chunk at a time.

Example: 8,192 tokens of Llama 3.1 70B in bfloat16 on 144 chips are 57 tokens of a chip, whose
products take 13 ms. But its 80 layers of 1.7 GB take 28 ms out of HBM, and a fourth of that where
four chips share each matrix.
"""

import math
from collections.abc import Iterator, Sequence

import jax.numpy as jnp
import numpy as np

from emu.trainium import with_cores
from models.held_bytes import held_as
from models.layer_form import LayerForm
from models.machines.precisions import mx_of
from models.prefill_plans.pipeline import Schedule, schedule
from models.prefill_plans.plan import Chunk, PrefillPlan
from models.prefill_plans.setting import Setting
from models.tensors import (
    EXPERTS,
    GATED_MLP,
    LATENT_PAIR,
    ROUTER,
    SHARED_EXPERT,
    Tensor,
    tensors_of,
)

OF_EXPERTS = frozenset(tensor.name for tensor in EXPERTS)
STAGES = "projections", "attention", "output", "feed"
_STAGE_OF = {"wo": "output", LATENT_PAIR.name: "attention"} | {
    tensor.name: "feed" for tensor in (*GATED_MLP, *EXPERTS, ROUTER, *SHARED_EXPERT)
}


def _matrices(setting: Setting, form: LayerForm, stage: str) -> Iterator[Tensor]:
    """A layer's matrices that a stage multiplies by."""
    for tensor in tensors_of(form):
        is_matrix = not tensor.is_added and len(setting.config.shape_of(tensor)) > 1
        if is_matrix and _STAGE_OF.get(tensor.name, "projections") == stage:
            yield tensor


def token_flops(setting: Setting, form: LayerForm, stage: str) -> int:
    """Of a token's products with a stage's weights; a multiply-add counts 2.

    Of attention those are the way up from a token's latent to keys and values of all heads.
    """
    total = 0
    for tensor in _matrices(setting, form, stage):
        shape, times = setting.config.shape_of(tensor), 1
        if tensor.name in OF_EXPERTS:
            assert form.experts is not None
            # Of all experts a token is with those that it chose.
            shape, times = shape[-2:], form.experts.chosen
        total += 2 * times * math.prod(shape)
    return total


def weight_bytes(setting: Setting, form: LayerForm, stage: str) -> int:
    """Of a stage's matrices that every chunk reads, as they are held: all but experts'."""
    total = 0
    for tensor in _matrices(setting, form, stage):
        if tensor.name not in OF_EXPERTS:
            shape = setting.config.shape_of(tensor)
            total += held_as(tensor, setting.precision).held_bytes(*shape)
    return total


def pairs(form: LayerForm, chunk: Chunk) -> int:
    """Pairs of a chunk's queries and the keys that they see.

    Example: 4 tokens behind 2 cached ones see 3 + 4 + 5 + 6 keys, within a window of 4 one and two
    fewer at the end: 3 + 4 + 4 + 4.
    """
    positions = np.arange(chunk.cached, chunk.cached + chunk.tokens)
    seen, attention = positions + 1, form.attention
    if attention.window is not None:
        seen = np.minimum(seen, attention.window)
    if attention.chunk is not None:
        seen = positions % attention.chunk + 1
    return int(seen.sum())


def bound(setting: Setting, plan: PrefillPlan) -> Schedule:
    """The schedule of a plan whose layers take no longer than what is said above."""
    of_layers = {kind: _layer(setting, plan, kind) for kind in setting.kinds}
    rows = []
    for layers in plan.layers(setting.config.num_hidden_layers):
        each = [of_layers[setting.first_alike(layer)] for layer in layers]
        rows.append(np.sum(each, axis=0))
    return schedule(rows)


def _layer(setting: Setting, plan: PrefillPlan, layer: int) -> np.ndarray:
    """Of a layer, seconds of each chunk."""
    parts = [_stage(setting, plan, layer, stage) for stage in STAGES]
    return np.sum(parts, axis=0)


def _stage(setting: Setting, plan: PrefillPlan, layer: int, stage: str) -> np.ndarray:
    """Of a stage of a layer, seconds of each chunk."""
    form = setting.config.forms[layer]
    device = with_cores(setting.sheet, plan.cores).at()
    in_mx = any(mx is not None for mx in mx_of(setting.precision))
    peak = device.fp8_flops_per_s if in_mx else device.bf16_flops_per_s
    cores = plan.of_stage * plan.cores
    chunks = _without_padding(plan)
    tokens = np.array([chunk.tokens for chunk in chunks])
    is_attention = stage == "attention"
    flops = token_flops(setting, form, stage)
    times = _made(setting, plan, form, chunks) if is_attention else tokens
    products_s = times * flops / peak / cores
    if is_attention:
        config = setting.config
        # A multiply-add for each feature of a key, and one for each of a value.
        of_pair = 2 * config.num_attention_heads * (config.key_dim + config.value_dim)
        seen = np.array([pairs(form, chunk) for chunk in chunks])
        products_s = products_s + seen * of_pair / device.bf16_flops_per_s / cores
    weights_s = (
        weight_bytes(setting, form, stage) / plan.tensor / device.hbm_bytes_per_s
    )
    least = np.maximum(products_s, weights_s)
    return np.maximum(least, _summed_s(setting, plan, form, stage, tokens))


def _made(
    setting: Setting, plan: PrefillPlan, form: LayerForm, chunks: Sequence[Chunk]
) -> np.ndarray:
    """For how many tokens all chips together make keys and values of latents, by chunk.

    Expanded, each place makes those of all keys up to its last query. Of R places with n tokens
    each the k-th of them in the order of their last queries has that behind k n tokens or more, so
    on average they make them for half of the tokens at least: 2 places of 8 tokens for 8 and 16.
    """
    attention, ring = form.attention, plan.ring
    tokens = np.array([chunk.tokens for chunk in chunks], float)
    is_bounded = attention.window is not None or attention.chunk is not None
    if setting.latent_form != "expanded" or is_bounded:
        return tokens
    cached = np.array([chunk.cached for chunk in chunks])
    return ring * cached + tokens * (ring + 1) / 2


def _summed_s(
    setting: Setting,
    plan: PrefillPlan,
    form: LayerForm,
    stage: str,
    tokens: np.ndarray,
) -> np.ndarray | float:
    """What sums over the chips of a place take on a chip's links, both ways between all.

    Of N chips each sends at least (N - 1) / N of a buffer to have its part of a sum, and as much to
    join the parts; of a mixture's rows only the latter.
    """
    if plan.tensor == 1 or stage not in ("output", "feed"):
        return 0.0
    times = 1 if stage == "feed" and form.experts is not None else 2
    system = setting.system
    rates = sum(system.rates("nominal"))
    # On a torus a chip has two neighbours along each dimension.
    sent_per_s = rates if system.switched else 2 * rates
    itemsize = jnp.dtype(setting.precision.wide).itemsize
    nbytes = tokens / plan.ring * setting.config.hidden_size * itemsize
    return times * nbytes * (plan.tensor - 1) / plan.tensor / sent_per_s


def _without_padding(plan: PrefillPlan) -> list[Chunk]:
    """Chunks of real tokens only, as even as whole tokens allow."""
    ends = [
        plan.cached + plan.new * number // plan.chunks
        for number in range(plan.chunks + 1)
    ]
    return [
        Chunk(first, last - first)
        for first, last in zip(ends[:-1], ends[1:], strict=True)
    ]


__all__ = ["bound", "pairs", "token_flops", "weight_bytes"]
