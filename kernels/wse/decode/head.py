"""Both ends of the model on one region: token to embedding, and residual stream to next token."""

import jax.numpy as jnp
from jax import ShapeDtypeStruct, lax

from emu.annotations import KnownInt
from emu.program import Known, Program
from emu.wse import (
    argmax,
    chain_argmax,
    copy,
    copy_into,
    fill,
    lookup,
    multicast_2d,
    scalar_of_one_live,
    sram_tile,
    vector_scale,
)
from emu.wse.spaces import Sram
from kernels.wse.decode.arrive import arrive
from kernels.wse.decode.blocks import gemv, rms_norm
from kernels.wse.decode.mapping import PE, HeadMap
from kernels.wse.decode.sums import all_reduce, reduce_to_first, unchanged, zeros

EmbedArguments = tuple[ShapeDtypeStruct, ShapeDtypeStruct]
HeadArguments = tuple[ShapeDtypeStruct, ShapeDtypeStruct, ShapeDtypeStruct, Known]


def first_token(head: HeadMap) -> KnownInt:
    """The lowest token id whose column this PE holds; known."""
    return lax.axis_index("col") * jnp.int32(head.tokens)


def embed(head: HeadMap, table: Sram, token: Sram) -> Sram:
    """The embedding of `token`, float32 `[depth]`, on the first column.

    The id is broadcast from the corner PE. It is data, so every PE spends the same time: the
    owner of its column copies it, the others write zeros, and the row is summed.

    Dimensions: `table` `[depth, tokens]`, `token` int32 `[1]`.
    """
    own = sram_tile(shape=(1,), dtype="int32")
    token = copy(own, token)
    token = multicast_2d(token, token, axes=PE)
    residual = sram_tile(shape=(head.depth,), dtype="float32")
    first = first_token(head)
    residual = lookup(residual, table, token, first)
    # One PE of the row has the embedding's elements, all others zeros: the sum is exact.
    residual = reduce_to_first(residual, "col")
    if head.embedding_scale == 1:
        return residual
    return scaled(residual, head.embedding_scale)


def scaled(x: Sram, factor: float) -> Sram:
    """A float32 vector times a number, in place."""
    number = fill(sram_tile(shape=(1,), dtype="float32"), value=factor)
    return vector_scale(x, x, number)


def capped(head: HeadMap, part: Sram, cap: float) -> Sram:
    """Logits `cap * tanh(sum / cap)`, float32 `[tokens]`, on the first row.

    A tanh is scalar code, so each row does `token_share` of its column's tokens, and a sum over
    rows, in which all others are zero, puts them together.

    Dimensions: `part` float32 `[tokens]`, of which the logits are the sum over rows.
    """
    share = head.token_share

    def of_share(out: Sram, logits: Sram, start: KnownInt) -> Sram:
        mine = lax.dynamic_slice_in_dim(logits, start, share)
        own = sram_tile(shape=(share,), dtype="float32")
        own = scaled(copy(own, mine), 1 / cap).reshape(1, share)
        bent = scalar_of_one_live(
            *(own, own, jnp.int32(share)), op="tanh", arithmetic="float32", opens=True
        )
        return copy_into(out, scaled(bent.reshape(share), cap), start, axis=0)

    logits = all_reduce(part, "row")
    start = lax.axis_index("row") * jnp.int32(share)
    has_tokens = start < head.tokens
    out = zeros((head.tokens,))
    out = lax.cond(has_tokens, of_share, unchanged, out, logits, start)
    return reduce_to_first(out, "row")


def predict(
    head: HeadMap,
    residual: Sram,
    norm: Sram,
    table: Sram,
    gap: KnownInt,
    crosses: bool = False,
) -> tuple[Sram, Sram]:
    """Logits, float32 `[tokens]` on the first row, and the next token, int32 `[1]` on its first PE.

    Dimensions: `residual` float32 `[depth]` in the last layer's region, `norm` `[depth]`, `table`
    `[depth, tokens]`, `gap` known hops, from another wafer if it `crosses`. The lowest token id
    wins a tie; padding never does.
    """
    # Row by row: the head's region is as high as a layer's, and splits the residual stream alike.
    residual = arrive(residual, gap, crosses)
    normed = rms_norm(
        residual,
        norm,
        n=head.hidden,
        eps=head.eps,
        dtype=head.dtype,
    )
    part = gemv(table, normed)
    # To one row only: a token's logit is needed once, by the PE that compares it.
    if head.logit_soft_cap is None:
        logits = reduce_to_first(part, "row")
    else:
        logits = capped(head, part, head.logit_soft_cap)

    # Columns of 4 tokens of a vocabulary of 10 count 4, 4, 2 and, should there be a fourth, 0.
    first = first_token(head)
    left = jnp.int32(head.vocab) - first
    valid = lax.min(left, jnp.int32(head.tokens))
    valid = lax.max(valid, jnp.int32(0))

    def best_of_mine(
        top: Sram,
        token: Sram,
        logits: Sram,
        valid: KnownInt,
        first: KnownInt,
    ) -> tuple[Sram, Sram]:
        return argmax(top, token, logits, valid, first)

    def nothing(
        top: Sram,
        token: Sram,
        logits: Sram,
        valid: KnownInt,
        first: KnownInt,
    ) -> tuple[Sram, Sram]:
        return top, token

    top = sram_tile(shape=(1,), dtype="float32")
    token = sram_tile(shape=(1,), dtype="int32")
    on_first_row = lax.axis_index("row") == 0  # the only one whose logits are whole
    operands = (top, token, logits, valid, first)
    # On the other rows the tiles stay unset: their chains run too, and nobody reads what they find.
    top, token = lax.cond(on_first_row, best_of_mine, nothing, *operands)
    _, token = chain_argmax(top, token, top, token, axis="col")
    return logits, token


def embed_program(head: HeadMap) -> Program:
    """`embed` on its mesh: arguments `table` `[rows, cols, depth, tokens]` and `token` `[1]`."""

    def kernel(table: Sram, token: Sram) -> Sram:
        return embed(head, table, token)

    return Program(kernel, head.mesh, (PE, ()))


def head_program(head: HeadMap, crosses: bool = False) -> Program:
    """`predict` on its mesh: arguments `residual` `[rows, depth]`, `norm` alike, `table`, `gap`."""

    def kernel(
        residual: Sram,
        norm: Sram,
        table: Sram,
        gap: KnownInt,
    ) -> tuple[Sram, Sram]:
        return predict(head, residual, norm, table, gap, crosses)

    return Program(kernel, head.mesh, (("row",), ("row",), PE, ()))


def head_arguments(head: HeadMap, gap: int) -> HeadArguments:
    """Shapes in place of data for `head_program(head).read` and `.memory`."""
    table, _ = embed_arguments(head)
    shape = (head.rows, head.depth)
    norm = ShapeDtypeStruct(shape, jnp.dtype(head.dtype))
    residual = ShapeDtypeStruct(shape, jnp.dtype("float32"))
    return residual, norm, table, Known(jnp.int32(gap))


def embed_arguments(head: HeadMap) -> EmbedArguments:
    """Shapes in place of data for `embed_program(head).read` and `.memory`."""
    shape = (head.rows, head.cols, head.depth, head.tokens)
    table = ShapeDtypeStruct(shape, jnp.dtype(head.dtype))
    token = ShapeDtypeStruct((1,), jnp.dtype("int32"))
    return table, token


__all__ = [
    "embed",
    "embed_arguments",
    "embed_program",
    "head_arguments",
    "head_program",
    "predict",
]
