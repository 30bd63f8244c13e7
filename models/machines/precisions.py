"""Which plans of precision prefill has kernels for; every other one is refused by name."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from emu.annotations import DType
from emu.numerics import GROUP
from emu.trainium.datasheets.limits import MX_QUAD
from kernels.formats.formats import POWER_OF_TWO
from kernels.trainium.gemm.mx_pack import MxFormats
from kernels.trainium.tiles import PARTITIONS, split
from models.config import ModelConfig
from models.errors import ModelError
from models.machines.tensor_parallel import PADDING, divide_model
from models.precision import Precision, precision

PREFILLED = (
    ("mxfp8", "mxfp8"),
    ("mxfp4", "mxfp8"),
    ("fp8", "fp8"),
    ("fp8_tensor", "fp8_tensor"),
    ("fp8_block", "fp8_block"),
)
"""Weights and activations of the products that kernels have beside those of one wide dtype."""

WIDENED = ("int8", "int4", "fp8", "fp8_tensor")
"""Weights that kernels make wide in SBUF, for products with activations in the wide dtype."""

HANDED_OVER = ("fp8", "int8")
"""Formats that prefill brings keys and values into, with a scale for a token's head."""


def of_prefill(given: DType | Precision, config: ModelConfig, cores: int) -> Precision:
    """The plan of a prefill.

    Args:
      given: a plan, or a dtype for all.
      config: of the model.
      cores: of each chip.

    Raises:
      ModelError: there are no kernels for it, or not for this model.
    """
    if not isinstance(given, Precision):
        return precision(jnp.dtype(given).name)
    if given.is_plain:
        return given
    _check_cache(given, config)
    if not (given.weights.is_coded or given.experts.is_coded):
        return given
    has_experts = any(form.experts is not None for form in config.forms)
    if given.experts != given.weights and not has_experts:
        raise ModelError(
            f"prefill: {config.name} has no experts to be held apart from other weights, got "
            f"precision {given.name!r}; leave experts out"
        )
    pairs = zip((given.weights, given.experts), given.taken, strict=True)
    carried_out = all(
        not held.is_coded
        or (taken is None and held.name in WIDENED and not has_experts)
        or (taken is not None and (held.name, taken.name) in PREFILLED)
        for held, taken in pairs
    )
    microscaled = given.activations.scale == POWER_OF_TWO
    too_wide = microscaled and given.wide == "float32"
    if not carried_out or too_wide:
        plans = ", ".join(f"weights={w},activations={a}" for w, a in PREFILLED)
        raise ModelError(
            f"prefill: precision {given.name!r} has no kernels; there are {plans}, those in MX of "
            "experts alone or apart too, all else in bfloat16 or float16, of those without MX in "
            f"float32 too; weights of {', '.join(WIDENED)} alone; and everything in one of these"
        )
    if not microscaled:
        for told, has in (("experts", has_experts), ("latents", config.latent)):
            if has:
                raise ModelError(
                    f"prefill: {config.name} has {told}, whose products are in MX or in one wide "
                    f"dtype, got precision {given.name!r}; take mxfp8 or bfloat16"
                )
        _check_blocks(given, config, cores)
        _check_groups(given, config)
        return given
    if not given.weights.is_coded:
        return given
    shared = {form.experts.shared_width for form in config.forms if form.experts}
    if cores > 1 and any(width % (cores * GROUP) for width in shared):
        raise ModelError(
            f"prefill: precision {given.name!r} on {cores} cores takes shared experts of whole "
            f"groups of {GROUP} features each, {config.name} has {max(shared)}; take one core, or "
            "experts alone in codes"
        )
    if config.latent is not None and config.latent.rank % MX_QUAD:
        raise ModelError(
            f"prefill: precision {given.name!r} takes latents of a multiple of {MX_QUAD} features, "
            f"{config.name} has {config.latent.rank}; take bfloat16"
        )
    # Scales are shared by 32 neighbours among the features that `wo` contracts, of one core.
    apart = cores > 1 and config.value_dim % GROUP
    if config.value_dim % MX_QUAD or apart:
        raise ModelError(
            f"prefill: precision {given.name!r} on {cores} cores takes heads of whole groups of "
            f"{GROUP} features, {config.name} has {config.value_dim}; take one core or bfloat16"
        )
    return given


def _check_blocks(given: Precision, config: ModelConfig, cores: int) -> None:
    """Refuses blocks of features that share a scale where cores have parts of several in one."""
    together, _ = given.activations.block or (None, None)
    if together is None or cores == 1:
        return
    heads = divide_model(config, cores).heads[..., None]
    features = heads * config.head_dim + np.arange(config.head_dim)
    blocks = np.where(heads == PADDING, PADDING, features // together)
    by_core = blocks.reshape(cores, -1)
    missing = [(0, 0), (0, -by_core.shape[1] % together)]
    apart = np.pad(by_core, missing, constant_values=PADDING)
    apart = apart.reshape(cores, -1, together)
    greatest = apart.max(-1, keepdims=True)
    if ((apart != greatest) & (apart != PADDING)).any():
        raise ModelError(
            f"prefill: precision {given.name!r} on {cores} cores takes heads of a core that begin "
            f"with a block of {together} features, {config.name} has {config.num_attention_heads} "
            f"of {config.head_dim}; take one core, another number of them, or bfloat16"
        )


def _check_cache(given: Precision, config: ModelConfig) -> None:
    """Refuses a cache in codes that prefill does not hand over."""
    if not given.cache.is_coded:
        return
    if given.cache.name not in HANDED_OVER:
        raise ModelError(
            f"prefill: precision {given.name!r} has a cache in {given.cache.name}, must be "
            f"{given.wide} or one of {', '.join(HANDED_OVER)}"
        )
    if config.latent is not None:
        raise ModelError(
            f"prefill: {config.name} attends to latents, which are cached in a wide dtype only, "
            f"got precision {given.name!r}; take a cache in {given.wide}"
        )


def _check_groups(given: Precision, config: ModelConfig) -> None:
    """Refuses heads of which a contraction tile would have parts of groups."""
    _, tile = split(config.head_dim, PARTITIONS)
    if given.weights.block == (GROUP, 1) and tile % GROUP:
        raise ModelError(
            f"prefill: precision {given.name!r} takes heads of whole groups of {GROUP} features, "
            f"{config.name} has {config.head_dim}; take int8 or bfloat16"
        )


def prefilled_as(plan: Precision, config: ModelConfig, cores: int) -> Precision:
    """What prefill has weights, activations and the cache in, under a plan of both machines.

    That is each that there are kernels for, and the plan's wide dtype for the others: of weights in
    such codes prefill is to be given the numbers that they stand for, and of a cache codes are made
    as it arrives.

    Args:
      plan: of both machines.
      config: of the model.
      cores: of each chip.
    """
    wide = precision(plan.wide)
    for own in (plan, dataclasses.replace(wide, cache=plan.cache)):
        for cache in (own.cache, wide.cache):
            try:
                return of_prefill(dataclasses.replace(own, cache=cache), config, cores)
            except ModelError:
                continue
    return wide


def mx_of(plan: Precision) -> tuple[MxFormats | None, MxFormats | None]:
    """What products have their operands in, of `weights` and of `experts`, where these are in MX.

    Args:
      plan: of a prefill, see `of_prefill`.
    """
    pairs = zip((plan.weights, plan.experts), plan.taken, strict=True)
    mx, of_experts = (
        MxFormats(held, taken) if taken and taken.scale == POWER_OF_TWO else None
        for held, taken in pairs
    )
    return mx, of_experts


__all__ = ["HANDED_OVER", "PREFILLED", "WIDENED", "mx_of", "of_prefill", "prefilled_as"]
