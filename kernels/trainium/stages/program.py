"""Stages of a layer on a mesh of chips and cores, as programs to be run or timed.

Tokens are dealt out to chips, weights to the cores of a chip (tensor parallelism): every chip has
the same weights, every core of a chip the same tokens. No stage sends anything between chips.
"""

import functools

from emu.program import Program
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
    GROUPED_SPECS,
    LATENT_SPECS,
    MLP_SPECS,
    OUTPUT_SPECS,
)

CHIP, CORE = "chip", "core"  # mesh axes
_TOKENS = (CHIP,)
_HEADS = (CHIP, CORE)


@functools.lru_cache(maxsize=32)
def latent_program(form: LatentForm, chips: int) -> Program:
    """`latent_projections` of `(x, cos, sin, weights)`; tokens lead with a dimension of chips."""

    def kernel(x: Hbm, cos: Hbm, sin: Hbm, weights: LatentWeights) -> LatentOperands:
        axis = _axis(form.tiling)
        return latent_projections(x, cos, sin, weights, form, core_axis=axis)

    specs = (_TOKENS, _TOKENS, _TOKENS, LATENT_SPECS)
    return Program(kernel, _mesh(form.tiling, chips), specs)


@functools.lru_cache(maxsize=32)
def grouped_program(form: GroupedForm, chips: int) -> Program:
    """`grouped_projections` of `(x, cos, sin, weights)`."""

    def kernel(x: Hbm, cos: Hbm, sin: Hbm, weights: GroupedWeights) -> StoredHeads:
        return grouped_projections(x, cos, sin, weights, form)

    specs = (_TOKENS, _TOKENS, _TOKENS, GROUPED_SPECS)
    return Program(kernel, _mesh(form.tiling, chips), specs)


@functools.lru_cache(maxsize=32)
def output_program(tiling: StageTiling, chips: int) -> Program:
    """`plus_attended` of `(x, attended, weights)`, `attended` of all chips and cores."""

    def kernel(x: Hbm, attended: Hbm, weights: OutputWeights) -> Hbm:
        return plus_attended(x, attended, weights, tiling, core_axis=_axis(tiling))

    return Program(kernel, _mesh(tiling, chips), (_TOKENS, _HEADS, OUTPUT_SPECS))


@functools.lru_cache(maxsize=32)
def mlp_program(tiling: StageTiling, gate: Gate, chips: int) -> Program:
    """`plus_mlp` of `(x, weights)`."""

    def kernel(x: Hbm, weights: MlpWeights) -> Hbm:
        return plus_mlp(x, weights, gate, tiling, core_axis=_axis(tiling))

    return Program(kernel, _mesh(tiling, chips), (_TOKENS, MLP_SPECS))


def _axis(tiling: StageTiling) -> str | None:
    return CORE if tiling.cores > 1 else None


def _mesh(tiling: StageTiling, chips: int) -> dict[str, int]:
    return {CHIP: chips, CORE: tiling.cores}


__all__ = [
    "CHIP",
    "CORE",
    "grouped_program",
    "latent_program",
    "mlp_program",
    "output_program",
]
