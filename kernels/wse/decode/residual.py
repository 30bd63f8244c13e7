"""Which dimension of a model's arrays is the residual stream's, and how it is cut for rows.

Slices of the residual stream end with blocks of a format, where rows suffice, as those of hidden
vectors do, see `kernels.wse.decode.held`: 7,168 features in slices of 7 take 1,024 rows, and 1,120
with five for each block of 32, the last of them four features. All arrays of a model with that
dimension are filled up by zeros alike, which no norm and no product counts.
"""

from collections.abc import Collection, Mapping

from kernels.formats.formats import Format
from kernels.wse.decode.dealing import Array, in_blocks
from kernels.wse.decode.held import Held, cut_of

FROM_RESIDUAL = (
    *("wq", "wk", "wv", "wq_down", "wkv_down"),
    *("w_gate", "w_up", "router"),
    *("expert_gate", "expert_up", "shared_gate", "shared_up"),
)
"""Projections from the residual stream, `[..., hidden, n]`."""

TO_RESIDUAL = (
    *("wo", "w_down", "expert_down", "shared_down"),
    *("bo", "expert_down_bias"),
    *("attn_norm", "mlp_norm", "attn_output_norm", "mlp_output_norm"),
)
"""Projections to it, their biases, and norms of it, `[..., hidden]`."""


def residual_cut(held: Held, hidden: int, each: int, rows: int) -> int | None:
    """Numbers of a block, where slices of the residual stream end with blocks; see `cut_of`.

    Of formats with blocks of different sizes the smaller ones: larger ones are multiples of them.
    """

    def rows_of(format_: Format) -> int:
        assert format_.block is not None and format_.block[0] is not None
        return format_.block[0]

    formats = [
        x
        for x in (held.weights, held.experts)
        if x is not None and x.block is not None and x.block[0] is not None
    ]
    if not formats:
        return None
    return cut_of(min(formats, key=rows_of), hidden, each, rows)


def residual_in_blocks(
    arrays: Mapping[str, Array], names: Collection[str], block: int | None, each: int
) -> dict[str, Array]:
    """Those of the names that there are, with zeros where a row has fewer features than others.

    Args:
      arrays: of a model, by name.
      names: which of them are wanted; those without the residual stream's dimension stay.
      block: as `residual_cut` says.
      each: features of a row.
    """
    found = {name: arrays[name] for name in names if name in arrays}
    if block is None:
        return found
    for name in found:
        if name in FROM_RESIDUAL:
            found[name] = in_blocks(found[name], -2, block, each)
        elif name in TO_RESIDUAL:
            found[name] = in_blocks(found[name], -1, block, each)
    return found


__all__ = ["FROM_RESIDUAL", "TO_RESIDUAL", "residual_cut", "residual_in_blocks"]
