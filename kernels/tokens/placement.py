"""Where tokens stand: which global positions each rank of a context-parallel ring holds."""

import dataclasses
from types import ModuleType
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from kernels.masks.grids import Grids
from kernels.refusal import refuse

Array = TypeVar("Array", jax.Array, np.ndarray)

PLACEMENTS = ("contiguous", "zigzag", "striped", "tile-cyclic")


@dataclasses.dataclass(frozen=True)
class Placement:
    """One way to deal a sequence out to ranks; all padding is at the end of the sequence.

    With rank i and slot l, a token's position is

    - contiguous: `i·slots + l`;
    - zigzag: rank i holds chunks i and `2·ranks − 1 − i` of `slots / 2` tokens;
    - striped: `l·ranks + i`;
    - tile-cyclic: `(l // unit · ranks + i)·unit + l % unit`.

    Eight tokens on two ranks, tile-cyclic in pairs:

    | | rank 0 | rank 1 |
    |---|---|---|
    | contiguous | 0 1 2 3 | 4 5 6 7 |
    | zigzag | 0 1 6 7 | 2 3 4 5 |
    | striped | 0 2 4 6 | 1 3 5 7 |
    | tile-cyclic | 0 1 4 5 | 2 3 6 7 |

    Attributes:
      name: one of `PLACEMENTS`.
      tokens: real tokens of the sequence; positions from `tokens` on are padding.
      ranks: ranks of the ring.
      slots: token slots of each rank, padding included.
      unit: consecutive tokens dealt at a time; read by tile-cyclic only.

    Raises:
      LimitExceeded: an unknown name, too few slots, or slots that the placement cannot divide.
    """

    name: str
    tokens: int
    ranks: int
    slots: int
    unit: int = 1

    def __post_init__(self) -> None:
        if self.name not in PLACEMENTS:
            refuse(
                f"placement is {self.name!r}, must be one of {', '.join(PLACEMENTS)}"
            )
        if min(self.tokens, self.ranks, self.slots, self.unit) < 1:
            refuse(f"{self}: tokens, ranks, slots and unit are at least 1")
        room = self.ranks * self.slots
        if room < self.tokens:
            refuse(
                f"{self.name}: {self.ranks} ranks of {self.slots} slots hold {room} of "
                f"{self.tokens} tokens; give at least {-(-self.tokens // self.ranks)} slots"
            )
        # Masks are traced on int32; a position beyond would wrap to a negative one, which no mask
        # is made for.
        if room > np.iinfo(np.int32).max:
            refuse(f"{self.name}: {room} slots are more than int32 positions can count")
        if self.name == "zigzag" and self.slots % 2:
            refuse(
                f"zigzag: {self.slots} slots are not two equal chunks; give {self.slots + 1}"
            )
        if self.name == "tile-cyclic" and self.slots % self.unit:
            whole = _up_to_multiple(self.slots, self.unit)
            refuse(
                f"tile-cyclic: {self.slots} slots are no multiple of the unit {self.unit}; "
                f"give {whole} slots"
            )

    def _at(self, rank: np.ndarray, slot: np.ndarray) -> np.ndarray:
        """Global position of a rank's slot; arrays that broadcast."""
        if self.name == "contiguous":
            return rank * self.slots + slot
        if self.name == "striped":
            return slot * self.ranks + rank
        if self.name == "zigzag":
            half = self.slots // 2
            # Under a causal mask chunk c of 2·ranks meets c + 1 chunks of keys: on four ranks rank
            # 0 has chunks 0 and 7 and meets 1 + 8, rank 3 has 3 and 4 and meets 4 + 5. Every pair
            # adds up to 9.
            from_the_end = 2 * self.ranks - 1 - rank
            chunk = np.where(slot < half, rank, from_the_end)
            return chunk * half + slot % half
        # On two ranks in units of 2, slot 3 of rank 1 is in its turn 1, the sequence's unit 1 · 2 +
        # 1 = 3, and second in it: position 7.
        turn = slot // self.unit
        unit = turn * self.ranks + rank
        return unit * self.unit + slot % self.unit

    def positions(self) -> np.ndarray:
        """Global position of every slot, int32 `[ranks, slots]`; `>= tokens` is padding."""
        ranks = np.arange(self.ranks)[:, None]
        slots = np.arange(self.slots)
        return self._at(ranks, slots).astype(np.int32)

    def spread(self, x: Array, axis: int = 0) -> Array:
        """Deals an array out to the ranks.

        Args:
          x: `[..., tokens, ...]`, numpy or jax.
          axis: of the tokens.

        Returns:
          `[ranks, ..., slots, ...]`, slots in the place of the tokens; padding holds zeros.
        """
        axis = self._axis(x.ndim, axis)
        if x.shape[axis] != self.tokens:
            refuse(f"spread: axis {axis} of {x.shape} is not {self.tokens} tokens")
        xp = _numpy_of(x)
        before = x.shape[:axis]
        behind = x.shape[axis + 1 :]
        padding = [(0, 0)] * x.ndim
        # All padding is at the end of the sequence, so a position alone tells whether it is
        # padding.
        padding[axis] = (0, self.ranks * self.slots - self.tokens)
        padded = xp.pad(x, padding)
        order = self.positions().reshape(-1)
        dealt = xp.take(padded, order, axis=axis)
        by_rank = dealt.reshape(*before, self.ranks, self.slots, *behind)
        return xp.moveaxis(by_rank, axis, 0)

    def collect(self, x: Array, axis: int = 0) -> Array:
        """The inverse of `spread`: drops padding.

        Args:
          x: `[ranks, ..., slots, ...]`, numpy or jax.
          axis: of the tokens in the result.

        Returns:
          `[..., tokens, ...]`.
        """
        axis = self._axis(x.ndim - 1, axis)
        ranks = x.shape[0]
        slots = x.shape[axis + 1]
        if (ranks, slots) != (self.ranks, self.slots):
            refuse(
                f"collect: {x.shape} has not {self.ranks} ranks first and {self.slots} slots "
                f"on axis {axis + 1}"
            )
        xp = _numpy_of(x)
        by_rank = xp.moveaxis(x, 0, axis)
        before = by_rank.shape[:axis]
        behind = by_rank.shape[axis + 2 :]
        together = by_rank.reshape(*before, ranks * slots, *behind)
        # Positions are a permutation, of which this is the inverse; what is padding sorts to the
        # end.
        order = np.argsort(self.positions(), axis=None)
        return xp.take(together, order[: self.tokens], axis=axis)

    def grids(self, size: int) -> Grids:
        """Every `size` consecutive slots of each rank as tiles, `[ranks, slots // size]`.

        Raises:
          ValueError: the slots are not whole tiles, or a tile's positions are not one grid.
        """
        self._check_tiles(size)
        ranks = np.arange(self.ranks, dtype=np.int64)[:, None]
        first_slots = np.arange(0, self.slots, size, dtype=np.int64)
        start = self._at(ranks, first_slots)
        # Only a tile of several units has two steps: of 4 ranks in units of 2, six slots of rank 1
        # are 2, 3, 10, 11, 18, 19.
        if self.name == "tile-cyclic" and size > self.unit:
            return Grids(
                start,
                outer_step=self.ranks * self.unit,
                outer_count=size // self.unit,
                inner_step=1,
                inner_count=self.unit,
            )
        step = self.ranks if self.name == "striped" else 1
        return Grids(
            start, outer_step=0, outer_count=1, inner_step=step, inner_count=size
        )

    def _check_tiles(self, size: int) -> None:
        if self.slots % size:
            refuse(
                f"{self.name}: {self.slots} slots are not whole tiles of {size}; "
                f"give {_up_to_multiple(self.slots, size)} slots"
            )
        half = self.slots // 2
        if self.name == "zigzag" and half % size:
            two = 2 * size
            refuse(
                f"zigzag: a tile of {size} spans two chunks of {half} slots; "
                f"give a multiple of {two} slots, {_up_to_multiple(self.slots, two)}"
            )
        # On four ranks a tile of 3 in units of 2 would be 0, 1, 8, the next 9, 16, 17: no grids of
        # two levels.
        nested = max(size, self.unit) % min(size, self.unit) == 0
        if self.name == "tile-cyclic" and not nested:
            refuse(
                f"tile-cyclic: tiles of {size} and a unit of {self.unit} tokens do not nest; "
                f"let one divide the other, for example unit {size}"
            )

    @staticmethod
    def _axis(ndim: int, axis: int) -> int:
        if not -ndim <= axis < ndim:
            refuse(f"axis {axis} of an array of {ndim} dimensions")
        return axis % ndim


def _numpy_of(x: jax.Array | np.ndarray) -> ModuleType:
    """The NumPy that an array is of: JAX's, where it can be traced, or the host's."""
    return jnp if isinstance(x, jax.Array) else np


def _up_to_multiple(slots: int, of: int) -> int:
    return -(-slots // of) * of


def place(name: str, tokens: int, ranks: int, slots: int, unit: int = 1) -> Placement:
    """A checked `Placement`; see there for the arguments and errors."""
    return Placement(name, tokens, ranks, slots, unit)
