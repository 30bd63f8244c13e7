"""Times that no plan can beat, from sizes alone: its products at the peak of all cores, and the
weights that a chip reads at the peak of its HBM.

They leave plans out of a search without a look at their clocks: a plan whose bound is longer than
another plan's time cannot be better. Products with weights are at the peak of MX where any are in
MX, those of allowed pairs of queries and keys at that of the wide dtype, and a stage has one chunk
at a time. Each chunk reads every matrix of a layer but those of experts that may not be chosen.

Example: 8,192 tokens of Llama 3.1 70B in bfloat16 on 144 chips are 57 tokens of a chip, whose
products take 14 ms; but 80 layers of 1.7 GB take 28 ms out of HBM, and a fourth of that where four
chips share each matrix.
"""

import math

import numpy as np

from emu.trainium import with_cores
from models.held_bytes import held_as
from models.layer_form import LayerForm
from models.machines.precisions import mx_of
from models.prefill_plans.pipeline import Schedule, schedule
from models.prefill_plans.plan import Chunk, PrefillPlan
from models.prefill_plans.setting import Setting
from models.tensors import EXPERTS, tensors_of

OF_EXPERTS = frozenset(tensor.name for tensor in EXPERTS)


def token_flops(setting: Setting, form: LayerForm) -> int:
    """Of a token's products with a layer's weights; a multiply-add counts 2.

    Up projections of latents' keys and values are of a token's own latent, once.
    """
    total = 0
    for tensor in tensors_of(form):
        shape = setting.config.shape_of(tensor)
        if tensor.is_added or len(shape) < 2:
            continue
        times = 1
        if tensor.name in OF_EXPERTS:
            assert form.experts is not None
            # Of all experts a token is with those that it chose.
            shape, times = shape[-2:], form.experts.chosen
        total += 2 * times * math.prod(shape)
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
    """The schedule of a plan whose layers take no longer than their products at peak."""
    of_layers = {kind: _layer(setting, plan, kind) for kind in setting.kinds}
    rows = []
    for layers in plan.layers(setting.config.num_hidden_layers):
        each = [of_layers[setting.first_alike(layer)] for layer in layers]
        rows.append(np.sum(each, axis=0))
    return schedule(rows)


def weight_bytes(setting: Setting, form: LayerForm) -> int:
    """Of a layer's matrices that every chunk reads, as they are held: all but experts'."""
    total = 0
    for tensor in tensors_of(form):
        shape = setting.config.shape_of(tensor)
        if tensor.is_added or len(shape) < 2 or tensor.name in OF_EXPERTS:
            continue
        total += held_as(tensor, setting.precision).held_bytes(*shape)
    return total


def _layer(setting: Setting, plan: PrefillPlan, layer: int) -> np.ndarray:
    """Of a layer, seconds of each chunk."""
    config, form = setting.config, setting.config.forms[layer]
    device = with_cores(setting.sheet, plan.cores).at()
    in_mx = any(mx is not None for mx in mx_of(setting.precision))
    peak = device.fp8_flops_per_s if in_mx else device.bf16_flops_per_s
    # A multiply-add for each feature of a key, and one for each of a value.
    of_pair = 2 * config.num_attention_heads * (config.key_dim + config.value_dim)
    cores = plan.of_stage * plan.cores
    real = _without_padding(plan)
    products_s = np.array(
        [
            chunk.tokens * token_flops(setting, form) / peak / cores
            + of_pair * pairs(form, chunk) / device.bf16_flops_per_s / cores
            for chunk in real
        ]
    )
    weights_s = weight_bytes(setting, form) / plan.tensor / device.hbm_bytes_per_s
    return np.maximum(products_s, weights_s)


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
