"""The two ends of a prefill as programs of a chip: embedding and the last token's logits."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from emu.program import Program
from emu.trainium import with_cores
from emu.trainium.datasheets import NeuronCoreSheet
from emu.trainium.spaces import Hbm
from kernels.trainium.gemm.mx_pack import elements_of
from kernels.trainium.layer import head
from kernels.trainium.layer.tiling import LayerTiling
from models.config import ModelConfig
from models.machines.pack import Packer
from models.machines.precisions import mx_of, of_prefill
from models.machines.prompt_layout import layer_tiling
from models.machines.tensor_parallel import divide_model
from models.precision import Precision

CORE = "core"


@dataclasses.dataclass(frozen=True, eq=False)
class Ends:
    """Embedding and output head of a model on one chip; all chips of a stage do alike.

    Attributes:
      config: of the model.
      precision: what weights are held in; both ends are in its wide dtype.
      sheet: of the chip.
      tokens: of a chip.
      cores: of a chip: each has all of its tokens, and a share of the vocabulary's logits.
    """

    config: ModelConfig
    precision: Precision
    sheet: NeuronCoreSheet
    tokens: int
    cores: int

    @functools.cached_property
    def tiling(self) -> LayerTiling:
        """Of a chip's tokens."""
        mx, of_experts = mx_of(of_prefill(self.precision, self.config, self.cores))
        return layer_tiling(
            self.config,
            divide_model(self.config, self.cores),
            self.tokens,
            jnp.dtype(self.precision.wide),
            chip=self.sheet,
            elements=elements_of(mx),
            expert_elements=elements_of(of_experts),
        )

    @functools.cached_property
    def weights(self) -> dict[str, Any]:
        """Shapes of the embedding, the last norm and the head, as kernels take them."""
        config, dtype = self.config, jnp.dtype(self.precision.wide)
        shares = divide_model(config, self.cores)
        held = self.precision.weights
        packer = Packer(config, self.tiling, shares, None, held, None, jnp)
        struct = jax.ShapeDtypeStruct
        given = {
            "embed": struct((config.vocab_size, config.hidden_size), dtype),
            "norm": struct((config.hidden_size,), dtype),
        }
        if not config.tie_word_embeddings:
            given["head"] = struct((config.hidden_size, config.vocab_size), dtype)
        return jax.eval_shape(packer.ends, given)

    @property
    def _mesh(self) -> dict[str, int]:
        return {CORE: self.cores}

    @functools.cached_property
    def embedding(self) -> Program:
        """Of `(ids, table)`."""
        tiling, scale = self.tiling, self.config.embedding_scale

        def kernel(ids: Hbm, table: Hbm) -> Hbm:
            return head.embed(ids, table, tiling, scale=scale)

        return Program(kernel, self._mesh, ((), ()))

    @property
    def embedding_arguments(self) -> tuple[Any, ...]:
        """What the clock is told of the embedding's arguments."""
        sizes = self.tiling.blocks, self.tiling.tiles, self.tiling.rows
        return jax.ShapeDtypeStruct(sizes, jnp.int32), self.weights["embed"]

    @functools.cached_property
    def logits(self) -> Program:
        """Of `(x, norm, heads)`, on the chip that has the last token."""
        tiling, soft_cap = self.tiling, self.config.logit_soft_cap

        def kernel(x: Hbm, norm: Hbm, heads: Sequence[Hbm]) -> Sequence[head.Logits]:
            last = tiling.tokens - 1
            return head.lm_head(
                x, norm, heads, tiling, row=last, mine=True, soft_cap=soft_cap
            )

        own = (CORE,) if self.cores > 1 else ()
        return Program(kernel, self._mesh, ((), (), own))

    @property
    def logits_arguments(self) -> tuple[Any, ...]:
        """What the clock is told of the head's arguments."""
        tiling = self.tiling
        sizes = tiling.blocks, tiling.tiles, tiling.rows, tiling.hidden_padded
        x = jax.ShapeDtypeStruct(sizes, tiling.dtype)
        return x, self.weights["norm"], self.weights["heads"]

    def seconds(
        self, bands: Sequence[str]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Of the embedding, and of the head, by band."""
        sheet = with_cores(self.sheet, self.cores)
        first, last = (
            program.read_bands(sheet, *arguments, bands=bands)
            for program, arguments in (
                (self.embedding, self.embedding_arguments),
                (self.logits, self.logits_arguments),
            )
        )
        return (
            {band: reading.seconds for band, reading in first.items()},
            {band: reading.seconds for band, reading in last.items()},
        )


__all__ = ["Ends"]
