"""New keys and values brought into codes on their way to HBM, as a cache in codes holds them.

A token's key, or value, of a head has a scale of its own, as `kernels.wse.decode.coded_cache` has
it: what is handed over to decode is codes and scales, and needs no arithmetic there. The prompt's
own attention has its keys and values as they are.
"""

import dataclasses
from typing import NamedTuple

from emu.trainium.engines.memory import dma_store
from emu.trainium.spaces import Hbm, Sbuf
from kernels.formats.formats import Format
from kernels.trainium.layer.by_token import quantised


class CodedPart(NamedTuple):
    """Keys, or values, of tokens in codes, in HBM.

    Attributes:
      codes: `[..., rows, kv_heads · head_dim]`.
      scale: float32 `[..., rows, kv_heads]`.
    """

    codes: Hbm
    scale: Hbm


def stored_in_codes(x: Sbuf, held: Format) -> CodedPart:
    """A tile of tokens' keys or values, SBUF `[rows, kv_heads, head_dim]`, to the bit as
    `kernels.formats.coding.coded` has each head's.

    Args:
      x: of any wide dtype.
      held: the format, of one scale for all that is coded together.
    """
    rows, heads, features = x.shape
    of_head = dataclasses.replace(held, block=(features, 1))
    codes, scale = quantised(x.reshape(rows, -1), of_head, heads * features)
    return CodedPart(dma_store(codes), dma_store(scale))


__all__ = ["CodedPart", "stored_in_codes"]
