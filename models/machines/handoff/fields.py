"""What a token's cache in one layer is made of, and which PEs of a row of its region take what.

Position p is taken by row p % rows, into slot p // rows; which columns take a number, and where it
lies among a token's others there, is the same for every token. Of a model with one key/value head
of 8 features on two columns, whose pairs are `i` and `i + 4`,

    number of the key     0  1  2  3  4  5  6  7
    column                0  0  1  1  0  0  1  1
    index there           0  1  0  1  2  3  2  3

A latent is taken by a column of every group, a head's scale by all columns of its group: such
numbers are sent once, and the row's routers hand them to several PEs.
"""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np

from emu.annotations import DType
from kernels.formats.formats import POWER_OF_TWO, Format, of_activations
from kernels.wse.decode.cache_format import POWERS, SCALES, Blocks
from kernels.wse.decode.mapping import LayerMap

Takes = np.ndarray
"""Int `[n, 3]`: a number, a column that takes it, and its index among the token's others there."""


@dataclasses.dataclass(frozen=True, eq=False)
class Field:
    """Numbers of one sort in a token's cache.

    Attributes:
      tile: of the PE's cache that they are part of, such as `k`.
      count: how many a token has.
      itemsize: bytes of each as it is sent.
      takes: which columns take which.
      is_number: whether it is what attention multiplies by, not a scale.
    """

    tile: str
    count: int
    itemsize: int
    takes: Takes
    is_number: bool = True

    @property
    def nbytes(self) -> int:
        """Bytes of a token."""
        return self.count * self.itemsize


def as_format(held: DType | Format) -> Format:
    """A dtype as the format of numbers that stand for themselves."""
    if isinstance(held, Format):
        return of_activations(held)
    name = jnp.dtype(held).name
    return Format(name, name)


@functools.lru_cache(maxsize=256)
def fields_of(layer: LayerMap, sent: Format) -> tuple[Field, ...]:
    """What a token's cache consists of as it is sent.

    Llama 3.1 8B in bfloat16 has 1,024 numbers in `k` and as many in `v`, 4,096 bytes. DeepSeek-V3
    has 512 of a latent and 64 that turn, all in `k`, 1,152.

    Args:
      layer: the region's mapping.
      sent: the format, see `as_format`.
    """
    itemsize = max(1, sent.element_bits // 8)
    if layer.form.latent is not None:
        return _latents(layer, sent, itemsize)
    takes = _of_heads(layer)
    count = layer.kv_heads * layer.head_dim
    fields = [Field(tile, count, itemsize, takes) for tile in SCALES]
    if not sent.is_coded:
        return tuple(fields)
    size = jnp.dtype(sent.scale).itemsize
    if sent.scale == POWER_OF_TWO:
        assert sent.block is not None and sent.block[0] is not None
        blocks, _ = sent.blocks(layer.head_dim, 1)
        own = _of_blocks(layer, _blocks(layer, sent.block[0]), blocks)
        names = POWERS.values()
        fields += [
            Field(tile, layer.kv_heads * blocks, size, own, is_number=False)
            for tile in names
        ]
        return tuple(fields)
    every = np.arange(layer.cols)
    of_group = np.stack([every // layer.parts, every, 0 * every], axis=1)
    fields += [
        Field(tile, layer.kv_heads, size, of_group, is_number=False)
        for tile in SCALES.values()
    ]
    return tuple(fields)


def _of_heads(layer: LayerMap) -> Takes:
    """Of keys or values of all heads, each by one column."""
    feature = np.arange(layer.head_dim)
    half, others = layer.turned // 2, layer.head_dim - layer.turned
    turns = feature < layer.turned
    # Pairs are dealt, then the features that do not turn.
    pairs, rest = half // layer.parts, others // layer.parts
    pair = feature % max(half, 1)
    behind = feature - layer.turned
    part = np.where(turns, pair // max(pairs, 1), behind // max(rest, 1))
    second = feature >= half
    of_pair = pair % max(pairs, 1) + second * pairs
    index = np.where(turns, of_pair, 2 * pairs + behind % max(rest, 1))
    head = np.arange(layer.kv_heads)[:, None]
    number = head * layer.head_dim + feature
    column = head * layer.parts + part
    index = np.broadcast_to(index, number.shape)
    return np.stack([number, column, index], axis=-1).reshape(-1, 3)


def _blocks(layer: LayerMap, size: int) -> Blocks:
    """Which blocks of a head a column's features are in."""
    pairs, rest = layer.turned_pairs, layer.dims - 2 * layer.turned_pairs
    ranges = [(0, pairs), (layer.turned // 2, pairs), (layer.turned, rest)]
    starts, widths = zip(*[each for each in ranges if each[1]], strict=True)
    return Blocks(size, starts, widths)


def _of_blocks(layer: LayerMap, blocks: Blocks, of_head: int) -> Takes:
    """Of powers of two, by every column that has features of the block."""
    found = []
    for column in range(layer.cols):
        head, part = divmod(column, layer.parts)
        for run, (first, step) in enumerate(blocks.runs):
            block = (first + part * step) // blocks.size
            found.append((head * of_head + block, column, run))
    return np.array(found)


def _latents(layer: LayerMap, sent: Format, itemsize: int) -> tuple[Field, ...]:
    """A latent and a turned key, in every group of columns."""
    here = layer.latent
    rank, turned = here.form.rank, here.form.turned
    starts = np.arange(here.groups)[:, None] * here.parts

    def dealt(numbers: np.ndarray, each: int, first: int) -> Takes:
        place = np.arange(len(numbers))
        column = starts + place // each
        number = np.broadcast_to(numbers, column.shape)
        index = np.broadcast_to(first + place % each, column.shape)
        return np.stack([number, column, index], axis=-1).reshape(-1, 3)

    half = turned // 2
    pair = np.arange(half).reshape(here.parts, -1)
    in_order = np.concatenate([pair, pair + half], axis=1).reshape(-1)
    of_latents = dealt(np.arange(rank), here.latent_dims, 0)
    of_turned = dealt(in_order, here.turned_dims, here.latent_dims)
    fields = [
        Field("k", rank, itemsize, of_latents),
        Field("k", turned, itemsize, of_turned),
    ]
    if sent.is_coded:
        column = np.tile(np.arange(layer.cols), 2)
        which = np.repeat(np.arange(2), layer.cols)
        takes = np.stack([which, column, which], axis=1)
        size = jnp.dtype(sent.scale).itemsize
        fields.append(Field(SCALES["k"], 2, size, takes, is_number=False))
    return tuple(fields)


@functools.lru_cache(maxsize=256)
def column_bytes(layer: LayerMap, sent: Format) -> np.ndarray:
    """Bytes of a token, int `[cols]`, by the first column that takes them; each counts once."""
    found = np.zeros(layer.cols, np.int64)
    for field in fields_of(layer, sent):
        number, column, _ = field.takes.T
        first = np.full(field.count, layer.cols)
        np.minimum.at(first, number, column)
        # In two places of one column a number is the same word.
        found += np.bincount(first, minlength=layer.cols) * field.itemsize
    return found


def token_bytes(layer: LayerMap, sent: Format) -> int:
    """Bytes of a token in one layer as they are sent."""
    return sum(field.nbytes for field in fields_of(layer, sent))


__all__ = ["Field", "as_format", "column_bytes", "fields_of", "token_bytes"]
