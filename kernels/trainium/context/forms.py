"""The forms of queries, keys and values: one floating-point dtype, or microscaled (MX)."""

from collections.abc import Sequence
from typing import Protocol

from emu.annotations import KnownInt, PyTree
from emu.trainium.spaces import Hbm, Sbuf
from kernels.trainium.context import operands, operands_mx
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.flash.lanes import Lane
from kernels.trainium.flash.step import Attended, Banks, Masked


class Form(Protocol):
    """The form of queries, keys and values: `operands`, or `operands_mx`.

    Functions of a module; see `operands` for what they take and give. Tiles of queries, and of keys
    and values, have a type of each form's own.
    """

    def query_tiles(self, tiling: ContextTiling) -> list[Sbuf]: ...

    def load_queries(
        self,
        tiles: Sequence[Sbuf],
        q: Sequence[Hbm],
        first: KnownInt,
        head: KnownInt,
        queue: str,
    ) -> list[Sbuf]: ...

    def query_of(
        self, tiles: Sequence[Sbuf], place: int, tiling: ContextTiling
    ) -> PyTree: ...

    def load_kv(
        self, block: PyTree, head: KnownInt, key_tile: KnownInt, tiling: ContextTiling
    ) -> PyTree: ...

    def step(
        self,
        q: PyTree,
        kv: PyTree,
        done: Attended,
        masked: Masked | None,
        banks: Banks,
        tiling: ContextTiling,
        factor: Sbuf | None = None,
    ) -> Lane[Attended]: ...


def form_of(tiling: ContextTiling) -> Form:
    """The module that knows the form of queries, keys and values."""
    # A form has no state, so its module is all that is handed on.
    return operands_mx if tiling.mx else operands


__all__ = ["Form", "form_of"]
