"""Stages of a layer on a mesh of chips and cores, as programs to be run or timed.

Tokens are dealt out to the places of a ring, weights to the cores of a place (tensor parallelism):
every place has the same weights, every core of a place the same tokens. A place is one chip, and
then no stage sends anything between chips; or it is several, neighbours in the system, which add up
what their cores have added up.
"""

import functools

from emu.program import Program
from emu.trainium.engines.memory import hbm
from emu.trainium.links.chip_collectives import chip_all_gather
from emu.trainium.spaces import Hbm
from kernels.trainium.layer.gate import Gate
from kernels.trainium.layer.heads import StoredHeads
from kernels.trainium.stages.grouped import (
    GroupedForm,
    GroupedWeights,
    grouped_projections,
)
from kernels.trainium.stages.latent import (
    LatentForm,
    LatentOperands,
    LatentWeights,
    latent_projections,
)
from kernels.trainium.stages.output import (
    MlpWeights,
    OutputWeights,
    plus_attended,
    plus_mlp,
)
from kernels.trainium.stages.tiling import StageTiling
from kernels.trainium.stages.weights import (
    CORE,
    TENSOR,
    axes_of,
    grouped_specs,
    latent_specs,
    mlp_specs,
    output_specs,
)

CHIP = "chip"  # mesh axis over the places of the ring
_TOKENS = (CHIP,)


@functools.lru_cache(maxsize=32)
def latent_program(form: LatentForm, chips: int) -> Program:
    """`latent_projections` of `(x, cos, sin, weights)`; tokens lead with a dimension of places."""

    def kernel(x: Hbm, cos: Hbm, sin: Hbm, weights: LatentWeights) -> LatentOperands:
        axis = _axis(form.tiling)
        return latent_projections(x, cos, sin, weights, form, core_axis=axis)

    specs = (_TOKENS, _TOKENS, _TOKENS, latent_specs(form.tiling))
    return Program(kernel, _mesh(form.tiling, chips), specs)


@functools.lru_cache(maxsize=32)
def grouped_program(form: GroupedForm, chips: int) -> Program:
    """`grouped_projections` of `(x, cos, sin, weights)`."""

    def kernel(x: Hbm, cos: Hbm, sin: Hbm, weights: GroupedWeights) -> StoredHeads:
        return grouped_projections(x, cos, sin, weights, form)

    specs = (_TOKENS, _TOKENS, _TOKENS, grouped_specs(form.tiling))
    return Program(kernel, _mesh(form.tiling, chips), specs)


@functools.lru_cache(maxsize=32)
def output_program(tiling: StageTiling, chips: int) -> Program:
    """`plus_attended` of `(x, attended, weights)`, `attended` of all places and cores."""

    def kernel(x: Hbm, attended: Hbm, weights: OutputWeights) -> Hbm:
        return plus_attended(
            x,
            attended,
            weights,
            tiling,
            core_axis=_axis(tiling),
            chips=_sharing(tiling),
        )

    specs = (_TOKENS, (CHIP, *axes_of(tiling)), output_specs(tiling))
    return Program(kernel, _mesh(tiling, chips), specs)


@functools.lru_cache(maxsize=32)
def mlp_program(tiling: StageTiling, gate: Gate, chips: int) -> Program:
    """`plus_mlp` of `(x, weights)`."""

    def kernel(x: Hbm, weights: MlpWeights) -> Hbm:
        return plus_mlp(
            x,
            weights,
            gate,
            tiling,
            core_axis=_axis(tiling),
            chips=_sharing(tiling),
        )

    return Program(kernel, _mesh(tiling, chips), (_TOKENS, mlp_specs(tiling)))


@functools.lru_cache(maxsize=32)
def joined_program(chips: int, tensor: int, cores: int) -> Program:
    """The chips of a place have each had a part of its tokens: `x` of all of them to each.

    Each chip has its own of `x`, `[places, chips of a place, tokens, hidden]`; each core gathers an
    equal part of the features, and together they have all.
    """
    mesh = {CHIP: chips, TENSOR: tensor, CORE: cores}

    def kernel(x: Hbm) -> Hbm:
        tokens, features = x.shape
        whole = hbm(tensor * tokens, features, dtype=x.dtype)
        return chip_all_gather(whole, x, axis=TENSOR, chips=(CHIP, TENSOR))

    return Program(kernel, mesh, ((CHIP, TENSOR, CORE),))


def _axis(tiling: StageTiling) -> str | None:
    return CORE if tiling.cores > 1 else None


def _sharing(tiling: StageTiling) -> tuple[str, ...]:
    """All mesh axes over chips, where several share a product."""
    return (CHIP, TENSOR) if tiling.tensor > 1 else ()


def _mesh(tiling: StageTiling, chips: int) -> dict[str, int]:
    if tiling.tensor == 1:
        return {CHIP: chips, CORE: tiling.cores}
    return {CHIP: chips, TENSOR: tiling.tensor, CORE: tiling.cores}


__all__ = [
    "CHIP",
    "CORE",
    "TENSOR",
    "grouped_program",
    "joined_program",
    "latent_program",
    "mlp_program",
    "output_program",
]
