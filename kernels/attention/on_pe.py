"""What of a variant runs on a PE: its functions as instructions, and the keys gone through.

One query for each head, at the last position of the cache or where it is told to be. Every function
is carried out on tiles, with a row for each query head of a key/value head:

    function                        tile
    score, mask, coefficients       [queries, slots], a slot for each cached key
    what a monoid finishes with     [queries, value_dims], a column for each feature in this PE
"""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from emu import Device
from emu.lower import CannotLower, Elementwise
from emu.wse.lower import ARRIVING, DATA, KEPT, Argument, Lowered, lower
from kernels.attention.newest_query import Attended, attended, read_mask
from kernels.refusal import refuse
from kernels.scores.fold import Fold
from kernels.scores.form import Reading
from kernels.wse.decode import sizes as checks
from kernels.wse.decode.attention_map import spans
from kernels.wse.decode.hooks import FoldOnPe


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeSizes:
    """What is attended to.

    Attributes:
      batch, heads, kv_heads: `kv_heads` divides `heads`.
      head_dim, value_dim: of queries and keys, and of values; default alike.
      context: keys in the cache.
      position: of the query; default that of the newest key, which then is the query's own.
      first_position: the least one, of a program that serves all from there on; default the same.
      scale: factor of a score; default `head_dim ** -0.5`.
      dtype: of queries and outputs: float32, float16 or bfloat16.
      cache_dtype: of the cache, one of `emu.wse.pe.packed.CODES`; None: as the queries'.
      mixes: of each of several score maps over the same values, whether its output counts as it is;
        else it is multiplied by a factor. `heads` counts the queries of all maps, those of a
        key/value head map by map. (): there is one map, and nothing is summed.
      values_are_keys: whether a value is the first features of its key, and held as part of it.
      block: features of a key or value that share a power of two, of a cache of such codes; 0: none
        do.
    """

    batch: int = 1
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int | None = None
    context: int
    position: int | None = None
    first_position: int | None = None
    scale: float | None = None
    dtype: str = "float32"
    cache_dtype: str | None = None
    mixes: tuple[bool, ...] = ()
    values_are_keys: bool = False
    block: int = 0

    @property
    def query(self) -> int:
        """Position of the query."""
        return self.context - 1 if self.position is None else self.position

    @property
    def query_bounds(self) -> tuple[int, int]:
        """Least and greatest position of the query."""
        first = self.query if self.first_position is None else self.first_position
        return first, self.query

    @property
    def maps(self) -> int:
        """Score maps over the same values."""
        return max(1, len(self.mixes))

    @property
    def queries(self) -> int:
        """Query heads that share a key/value head, of all maps."""
        return self.heads // self.kv_heads


@dataclasses.dataclass(frozen=True, eq=False)
class OnPe:
    """A variant's functions as a PE's instructions.

    Attributes:
      score: of the scaled score; None: the score itself.
      mask: whether a slot is attended; None: all that are gone through are.
      fold: what changes the softmax; None: nothing does.
    """

    score: Lowered | None
    mask: Lowered | None
    fold: FoldOnPe | None

    def of_slots(self) -> Iterator[Lowered]:
        """Those that run on tiles of slots, in the order in which they do."""
        found = [self.score, self.mask]
        if self.fold is not None:
            found += self.fold.of_slots()
        yield from (x for x in found if x is not None)

    @property
    def all(self) -> tuple[Lowered, ...]:
        """Every function."""
        finish = None if self.fold is None else self.fold.finish
        return (*self.of_slots(), *(() if finish is None else (finish,)))

    @property
    def cycles(self) -> float:
        """Of those that run on tiles of slots, as estimated."""
        return sum(x.cycles for x in self.of_slots())


@dataclasses.dataclass(frozen=True, eq=False)
class VariantOnPe:
    """A variant's functions and the keys of its newest query, before a region is chosen.

    Attributes:
      sizes: what is attended to.
      score, mask: as read; None: the score itself, and no mask but a range.
      fold: as read; None: softmax.
      keys: attended to.
    """

    sizes: DecodeSizes
    score: Elementwise | None
    mask: Elementwise | None
    fold: Fold | None
    keys: Attended

    @property
    def changes_softmax(self) -> bool:
        """Whether more than the last step is another than softmax's."""
        return self.fold is not None and not self.fold.is_softmax

    def lowered(self, queries: int, slots: int, features: int, device: Device) -> OnPe:
        """Its functions on tiles of so many query heads and slots, or features of a value."""
        arguments = self._arguments()

        def of(function: Elementwise | None, prefix: str) -> Lowered | None:
            if function is None:
                return None
            return lower(
                function,
                arguments,
                rows=queries,
                slots=slots,
                device=device,
                prefix=prefix,
            )

        score = of(self.score, "score ")
        mask = of(self.mask if self.keys.gaps else None, "mask ")
        if score is not None and score.is_identity:
            score = None
        fold = self.fold
        if fold is None:
            return OnPe(score, mask, None)
        finish = self._finish(fold, queries, features, device)
        # What nobody reads is not summed; a softmax's sum is, for its log-sum-exp.
        told = fold.tells_log_sum_exp
        sums = [x for x in fold.sums if told or finish is None or x.name in finish.data]
        on_pe = FoldOnPe(
            values=fold.values.name,
            greatest=fold.greatest,
            exponent=of(fold.exponent, "exponent "),
            # An exponential of a difference is an instruction of its own.
            weight=None if fold.weighs_as_softmax else of(fold.weight, "weight "),
            sums={x.name: of(x.coefficient, f"sum {x.name} ") for x in sums},
            factor=of(fold.values.coefficient, "values "),
            finish=finish,
        )
        return OnPe(score, mask, on_pe)

    def _finish(
        self, fold: Fold, queries: int, features: int, device: Device
    ) -> Lowered | None:
        """A fold's last step; None: softmax's own, which a PE does without a loop."""
        if fold.tells_log_sum_exp and fold.divides_by_sum:
            return None
        finish = lower(
            fold.finish,
            self._arguments_of_finish(fold),
            rows=queries,
            slots=features,
            device=device,
            prefix="finish ",
        )
        if fold.values.name not in finish.data:
            raise CannotLower(
                f"{finish.function.name}: reads {', '.join(sorted(finish.data)) or 'nothing'} of "
                f"what was summed, must read the values, {fold.values.name}"
            )
        return finish

    def _arguments(self) -> Mapping[str, Argument]:
        """How arguments of what runs on slots lie on a PE."""
        sizes = self.sizes
        last = sizes.context - 1
        of_row = Argument(DATA, rows=True)
        of_slot = Argument(DATA, rows=True, slots=True)
        return {
            "s": of_slot,
            "own": of_slot,
            "greatest": of_row,
            "b": Argument(KEPT, bounds=(0, sizes.batch - 1)),
            "h": Argument(KEPT, rows=True, bounds=(0, sizes.heads - 1), aligned=True),
            "q": Argument(ARRIVING, bounds=sizes.query_bounds),
            "k": Argument(KEPT, slots=True, bounds=(0, last)),
        }

    def _arguments_of_finish(self, fold: Fold) -> Mapping[str, Argument]:
        """The same of what runs on features, which are dealt as values are."""
        sizes = self.sizes
        values, *others = fold.components
        value_dim = sizes.value_dim or sizes.head_dim
        return {
            **self._arguments(),
            **{name: Argument(DATA, rows=True) for name in others},
            values: Argument(DATA, rows=True, slots=True),
            # Values by query and feature, such as a gate's, come with the query: they lie there.
            "q": Argument(KEPT, bounds=sizes.query_bounds),
            "d": Argument(KEPT, slots=True, bounds=(0, value_dim - 1)),
        }

    def ranges(self, rows: int, ahead: int) -> tuple[np.ndarray, np.ndarray]:
        """First slot and live slots in every row; with slots `ahead`, behind the gap."""
        keys = self.keys
        if ahead:
            assert keys.gap is not None
            _, end = keys.gap
            return spans(np.array([end]), keys.high.max(keepdims=True), rows)
        return spans(keys.low, keys.high, rows)


def slots_ahead(keys: Attended, rows: int) -> int:
    """Slots before a gap, 0 if skipping it saves no slot of every row.

    Sinks of 4 keys on 229 rows are in the first slot of 4 rows; as the others' first slot is gone
    through too, the mask leaves it out.
    """
    if keys.gap is None:
        return 0
    start, end = keys.gap
    ahead = -(-start // rows)
    return ahead if end - ahead * rows >= rows else 0


def variant_on_pe(reading: Reading, sizes: DecodeSizes) -> VariantOnPe:
    """Reads a variant's mask at the newest query.

    Raises:
      CannotLower: the mask cannot be traced.
    """
    _check_sizes(sizes)
    mask = None if reading.mask is None else read_mask(reading.mask, reading.name)
    keys = attended(
        mask,
        sizes.batch,
        sizes.heads,
        sizes.kv_heads,
        sizes.context,
        sizes.query,
    )
    return VariantOnPe(sizes, reading.score, mask, reading.fold, keys)


def _check_sizes(sizes: DecodeSizes) -> None:
    names = ("batch", "heads", "kv_heads", "head_dim", "context")
    checks.check_whole(sizes, *names)
    checks.check_dtype(sizes.dtype)
    if sizes.cache_dtype is not None:
        checks.check_cache_dtype(sizes.cache_dtype, sizes.dtype)
    checks.check_block(
        sizes.block, sizes.head_dim, sizes.cache_dtype or sizes.dtype, sizes.dtype
    )
    checks.within("position", sizes.query, 0, checks.MOST)
    if sizes.heads % (sizes.kv_heads * sizes.maps):
        of_maps = f" in {sizes.maps} maps" if sizes.mixes else ""
        refuse(
            f"{sizes.heads} heads must be a multiple of {sizes.kv_heads} key/value heads{of_maps}"
        )
    if sizes.mixes and sizes.cache_dtype is not None:
        refuse(
            f"a cache of {sizes.cache_dtype} and {sizes.maps} maps of scores, must be one map or a "
            "cache in the queries' dtype"
        )


__all__ = ["DecodeSizes", "OnPe", "VariantOnPe", "slots_ahead", "variant_on_pe"]
