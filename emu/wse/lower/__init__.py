"""A scalar function on a tile `[rows, slots]` of a PE: what is kept, what arrives, what is run.

`s - slope[h] * (q - k)` with a row of the tile for each head and a slot for each cached token: `s`
is the tile; `slope[h]` and `k` depend on no token to come, so they lie in SRAM ready made, a number
a row and a number a slot; `q` is one number, which arrives with the token. Left are a subtraction
of `[1, slots]`, a product of `[rows, slots]` and a subtraction, each a vector operation.

Where an operation is carried out:

- Known before any token: kept as a *table* `[1 or rows, 1 or slots]`. It costs bytes and no cycles.
- Of the token alone: a *number* for each row or one for all, worked out where the token comes from,
  as the angles of a rotary embedding are. Like the query itself it is there when the clock starts.
- An entry of an array that the token's position chooses, such as `bias[h, q, k]`: of the array a PE
  keeps what belongs to its rows and slots, `[rows * entries, slots]`, and copies the row.
- Everything else is run for every token: vector operations where a PE has them, else scalar code,
  all in one loop; what is cheaper by the clock where it can be either (`placement`).

Whole numbers less than 2**24 are held as float32, which is exact and has vector operations.
"""

from emu.wse.lower.lowered import Lowered, lower
from emu.wse.lower.nodes import ARRIVING, DATA, KEPT, Argument, Leaf, Tiles

__all__ = [
    "ARRIVING",
    "Argument",
    "DATA",
    "KEPT",
    "Leaf",
    "Lowered",
    "Tiles",
    "lower",
]
