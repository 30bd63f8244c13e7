"""A mixture of experts as the MLP of a decode layer on the wafer.

Two ways to lay experts out on a region were weighed for one token of DeepSeek-V3 (7168, 256 experts
of 2048, 8 chosen and one shared):

- Each expert on PEs of its own, to which the token walks. In bfloat16 an expert takes 64 x 32 PEs
  and 13,800 cycles from its input to its output, 11,900 of them multiply-adds, as only the chosen
  experts' PEs work. Before comes the router, the walk of 112 words a row over as many hops as the
  farthest expert is away, and behind the sum over all regions.
- Each expert over all PEs, 1024 x 512. Every PE works for every token, in the same time whichever
  experts are chosen: 14,830 cycles with norm and router, 1,370 of them multiply-adds. Sums run the
  length of the region, 1024 PEs in some 2,300 cycles, four times.

The second is what this is: sooner for one token, by what the first one walks and sums. Hops are
most of its time, and short vectors waste a third of a multiply-add's cycles. Of many tokens at a
time the first would be worth it: with all experts busy a token would take each PE 9 x 11,900 / 257
cycles of multiply-adds, 415 and not 1,370, if tokens were dealt evenly.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from emu.annotations import DType, Shape
from emu.datasheet import Device
from emu.wse.spaces import Sram
from kernels.moe.routing import Routing
from kernels.moe.wafer.estimate import expert_cycles
from kernels.moe.wafer.experts import experts
from kernels.moe.wafer.layout import expert_tiles
from kernels.moe.wafer.placed import ExpertMap
from kernels.moe.wafer.router import choose
from kernels.refusal import refuse
from kernels.wse.decode import sizes
from kernels.wse.decode.activation import SILU, Activation
from kernels.wse.decode.blocks import Weights
from kernels.wse.decode.held import scale_of
from kernels.wse.decode.mapping import PE
from kernels.wse.decode.region import Region


@dataclasses.dataclass(frozen=True)
class ExpertMlp:
    """Sizes and forms of a mixture of experts, on whatever region.

    Attributes:
      routing: how the router chooses.
      ffn: width of one expert's hidden vector.
      shared: experts as wide that every token goes to besides; one shared MLP of several times the
        width is so many of them.
      activation: of every expert.
      router_bias: whether the router's projection has a bias.
      bias: whether the experts' projections have biases.

    Where the region has matrices in codes, experts' are: a PE copies those of the chosen ones side
    by side and makes them wide before it multiplies. The router's stays as it is.
    """

    routing: Routing
    ffn: int
    shared: int = 0
    activation: Activation = SILU
    router_bias: bool = False
    bias: bool = False

    def __post_init__(self) -> None:
        sizes.check_whole(self, "ffn")
        sizes.within("shared", self.shared, 0, sizes.MOST)
        if self.routing.experts + self.shared > sizes.MOST:
            refuse(f"{self.routing.experts} experts must be at most {sizes.MOST}")

    @property
    def tiles(self) -> int:
        """Experts of which a PE has a slice each: those to be chosen, and the shared ones."""
        return self.routing.experts + self.shared

    def on(self, region: Region) -> ExpertMap:
        """Which PE of a region holds what."""
        return ExpertMap(region, self.routing, self.ffn, self.shared)

    def apply(
        self, region: Region, normed: Sram, weights: Weights
    ) -> tuple[Sram, Sram]:
        """Output of the mixture for one token, float32 `[depth]`, and its experts, on every column.

        The experts are float32 `[chosen + shared]`, numbers of the chosen ones, the best first.

        Args:
          region: the layer's.
          normed: `[depth]`, the normalised residual stream.
          weights: of this PE, shapes `weight_shapes`.
        """
        layout = self.on(region)
        choice = choose(layout, normed, weights)
        return experts(layout, self.activation, normed, weights, choice), choice.at

    def weight_shapes(self, region: Region) -> dict[str, Shape]:
        """Shapes of all experts' weights in one PE, chosen or not."""
        layout = self.on(region)
        depth = region.depth
        shapes: dict[str, Shape] = {"router": (depth, layout.own)}
        for name, tile in layout.matrices.items():
            for part, shape in tile.shapes(name, region.held).items():
                shapes[part] = (layout.tiles, *shape)
        if layout.deals_scales:
            outputs = layout.matrices["experts_down"].columns
            shapes[scale_of("experts_down")] = (outputs, layout.scales_share)
        if self.router_bias:
            shapes["router_bias"] = (layout.own,)
        if self.routing.selection_bias:
            shapes["selection_bias"] = (layout.own,)
        if self.bias:
            # Of gate and up where they are activated, of down where its first column adds it.
            shapes["experts_gate_up_bias"] = (layout.tiles, 2 * layout.share)
            shapes["experts_down_bias"] = (layout.tiles, 1, depth)
        return shapes

    def weight_specs(self, region: Region) -> dict[str, tuple[str, ...]]:
        """How each weight is split over the mesh."""
        along = {
            "router_bias": ("col",),
            "selection_bias": ("col",),
            "experts_down_bias": ("row",),
        }
        return {name: along.get(name, PE) for name in self.weight_shapes(region)}

    def weight_dtypes(self, region: Region) -> dict[str, DType]:
        """Dtype of each weight; biases of the router are added to float32 logits and scores."""
        dtypes: dict[str, DType] = dict.fromkeys(
            self.weight_shapes(region), region.dtype
        )
        for name in ("router_bias", "selection_bias"):
            if name in dtypes:
                dtypes[name] = "float32"
        if region.held is not None:
            for name, tile in self.on(region).matrices.items():
                dtypes |= tile.dtypes(name, region.held)
        return dtypes

    def weight_bytes(self, region: Region) -> int:
        """Bytes of all weights in one PE."""
        dtypes = self.weight_dtypes(region)
        return sum(
            jnp.dtype(dtypes[name]).itemsize * math.prod(shape)
            for name, shape in self.weight_shapes(region).items()
        )

    def weight_tiles(self, layers: Mapping[str, Any], region: Region) -> dict[str, Any]:
        """Each weight on its PEs, from a model's stacked ones: see `layout.expert_tiles`."""
        return expert_tiles(layers, self.on(region), self.weight_shapes(region))

    def buffer_bytes(self, region: Region) -> int:
        """Bytes of buffers that are live at once for certain: gate, up and their product.

        Of weights in codes, the copies of the chosen experts' gate and up as well.
        """
        layout = self.on(region)
        elements = layout.active * layout.width
        copied = 0
        if region.held is not None:
            name = "experts_gate_up"
            tile = layout.matrices[name]
            dtypes = tile.dtypes(name, region.held)
            copied = layout.active * sum(
                jnp.dtype(dtypes[part]).itemsize * math.prod(shape)
                for part, shape in tile.shapes(name, region.held).items()
            )
        return 3 * 4 * elements + copied

    def cycles(self, region: Region, device: Device) -> float:
        """Rough cycles of a token, to choose a region by; the clock is the program's."""
        return expert_cycles(self.on(region), device)

    def flops(self, hidden: int) -> int:
        """Multiply-adds of one token's projections, times 2: the closed form without padding."""
        active = self.routing.chosen + self.shared
        return 2 * hidden * (3 * active * self.ffn + self.routing.experts)


__all__ = ["ExpertMlp"]
