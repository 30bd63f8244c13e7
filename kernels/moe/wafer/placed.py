"""Which PE holds what of a layer's experts and its router.

A PE holds a slice of every expert, as of a dense MLP: `depth` elements of the residual stream by
`width` of each expert's hidden vector. DeepSeek-V3's 257 experts of 7168 x 2048 on 1024 x 512 PEs
are 257 slices of 7 x 4.

The router works in *blocks* of PEs, all of which do the same: scores of 256 experts need not cross
a wafer to be compared. A block of 32 x 32 PEs holds 8 experts in each of its columns, and compares
them with the 8 experts of each of its rows. Everything that is scalar code is dealt to the rows of
a block, or for activations to those of a *band* of rows, and summed over them.
"""

import dataclasses
import functools
import math

from emu.wse import WSE3
from kernels.moe.routing import Routing
from kernels.wse.decode.estimate import all_reduce_cycles
from kernels.wse.decode.held import MatrixTile, cut_of
from kernels.wse.decode.mapping import share_of
from kernels.wse.decode.region import Region


def divisors(n: int) -> list[int]:
    """Of n, from 1 to n."""
    return [d for d in range(1, n + 1) if n % d == 0]


@functools.cache
def block_of(rows: int, cols: int, experts: int) -> tuple[int, int]:
    """Rows and columns of a router's block: few comparisons against short sums.

    On 1024 x 512 PEs a single block would compare one pair of 256 experts in each PE, and sum over
    a thousand PEs; blocks of 2 x 2 would sum at once, and compare 16,384 pairs. Cycles are a
    WSE-3's, as a program is the same on every machine that it is read for.
    """
    device = WSE3.at()
    each = device.loop_cycles + 2 * device.scalar_cycles + device.branch_cycles

    def cycles(block: tuple[int, int]) -> float:
        high, wide = block
        own, turned = share_of(experts, wide), share_of(experts, high)
        # A score of each expert, its place among its column's, and its rank.
        along_cols = 2 * _sum_cycles(wide, turned) if wide > 1 else 0
        along_rows = 2 * _sum_cycles(high, own) if high > 1 else 0
        scores = share_of(own, high) * (device.exp_cycles + device.divide_cycles)
        return own * turned * each + along_cols + along_rows + scores

    blocks = [(high, wide) for high in divisors(rows) for wide in divisors(cols)]
    return min(blocks, key=cycles)


@functools.cache
def _sum_cycles(pes: int, elements: int) -> int:
    """Of a sum over a block's line, which blocks of many regions have alike."""
    return all_reduce_cycles(WSE3.at(), pes, elements)


@dataclasses.dataclass(frozen=True)
class ExpertMap:
    """A layer's experts on a region.

    Attributes:
      region: the PEs.
      routing: of the router.
      ffn: width of one expert's hidden vector.
      shared: experts that every token goes to.
    """

    region: Region
    routing: Routing
    ffn: int
    shared: int

    # --- the router ---

    @property
    def block(self) -> tuple[int, int]:
        """Rows and columns of PEs that choose experts between them."""
        return block_of(self.region.rows, self.region.cols, self.routing.experts)

    @property
    def score_share(self) -> int:
        """Experts of a column whose scores one row of a block works out."""
        high, wide = self.block
        return share_of(share_of(self.routing.experts, wide), high)

    @property
    def own(self) -> int:
        """Experts of a column of a block: whole shares, as `LayerMap.width`."""
        _, wide = self.block
        share = self.score_share
        return share_of(share_of(self.routing.experts, wide), share) * share

    @property
    def turned(self) -> int:
        """Experts of a row of a block."""
        high, _ = self.block
        return share_of(self.routing.experts, high)

    @property
    def group_share(self) -> int:
        """Groups of experts that one column of a block ranks."""
        _, wide = self.block
        return share_of(self.routing.groups, wide)

    @property
    def groups(self) -> int:
        """Groups of experts, a whole number of such shares; those too many sum nothing."""
        return share_of(self.routing.groups, self.group_share) * self.group_share

    # --- the experts ---

    @property
    def tiles(self) -> int:
        """Experts whose weights a PE holds slices of: those to be chosen, then the shared ones."""
        return self.routing.experts + self.shared

    @property
    def matrices(self) -> dict[str, MatrixTile]:
        """Of one expert, by the names under which a PE holds those of all."""
        depth, width, cut = self.region.depth, self.width, self.cut
        in_order = width
        if self.shared > 1 and cut is None:
            # Several shared experts are parts of one matrix, in which each begins where one ends.
            in_order = math.gcd(width, self.ffn)
        outputs, rows_cut = depth, self.region.cut
        if self.region.held is not None:
            # Rows of whole words, as codes and scales of 8 bits are copied by words.
            outputs = 2 * share_of(depth, 2)
        gate_up = MatrixTile(
            *(depth, 2 * width, depth, in_order),
            one_columns=width,
            rows_cut=rows_cut,
            columns_cut=cut,
            piece_codes=self.region.piece_codes,
        )
        down = MatrixTile(
            *(width, outputs, in_order, depth if rows_cut is None else outputs),
            one_columns=outputs,
            rows_cut=cut,
            columns_cut=rows_cut,
            piece_codes=self.region.piece_codes,
        )
        return {"experts_gate_up": gate_up, "experts_down": down}

    @property
    def deals_scales(self) -> bool:
        """Whether a column of a block has the scales of down of its own share of all experts.

        Where each output has a scale for all rows, all columns of PEs would hold the same: of
        Kimi-K2's 385 experts 12 KB in each PE, in a block of 16 columns 800 bytes.
        """
        held = self.region.held
        return held is not None and held.block == (None, 1)

    @property
    def scales_share(self) -> int:
        """Experts whose scales one column of a block holds."""
        _, wide = self.block
        return share_of(self.tiles, wide)

    @property
    def active(self) -> int:
        """Experts of a token."""
        return self.routing.chosen + self.shared

    @property
    def band(self) -> int:
        """Rows that deal the activations of a column between them, and sum them.

        A few experts have fewer elements in a column than a long column has PEs: of 9 x 4 elements
        on 1024 rows, bands of 64 rows do one each, sooner than one band of all.
        """
        rows = self.region.rows
        elements = self.active * self.width
        enough = [d for d in divisors(rows) if d >= elements]
        return min(enough, default=rows)

    @property
    def width(self) -> int:
        """Elements of one expert's hidden vector in one column."""
        return share_of(self.ffn, self.region.cols)

    @property
    def cut(self) -> int | None:
        """Elements of a block, where slices of the hidden vector end with blocks; see `cut_of`."""
        cut = cut_of(self.region.held, self.ffn, self.width, self.region.cols)
        if cut is None or (self.shared > 1 and self.ffn % cut):
            # Of shared experts in one matrix, blocks end elsewhere in the second than in the first.
            return None
        return cut

    @property
    def pieces(self) -> int:
        """Equal parts of those elements that different rows work out.

        Ten elements on rows for three parts are two parts of five: a third would have to be filled
        up, and every expert's weights with it.
        """
        most = max(1, self.band // self.active)
        return max(d for d in divisors(self.width) if d <= most)

    @property
    def share(self) -> int:
        """Elements of such a part."""
        return self.width // self.pieces

    @property
    def pieces_a_row(self) -> int:
        """Parts that one row works out one after the other; several are whole experts."""
        return share_of(self.active * self.pieces, self.band)


__all__ = ["ExpertMap", "block_of", "divisors"]
