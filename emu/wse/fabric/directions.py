"""The five ports of a router: names, numbers, neighbours, and sets of them as bits.

A set of directions is an integer with bit `d` for direction `d`. A router that takes a color from
the west and passes it on to the east and into its own PE has

    receive = 1 << WEST             = 0b01000
    send    = 1 << EAST | 1 << RAMP = 0b10010

Every array of routes in this package (`Color.receive`, `Color.send` and what is made of them) holds
such sets, 0 where the color has no route.
"""

import functools
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import numpy as np

from emu import given

DIRECTIONS = ("north", "east", "south", "west", "ramp")
NORTH, EAST, SOUTH, WEST, RAMP = range(5)
LINKS = (NORTH, EAST, SOUTH, WEST)
"""Directions with a neighbour; `RAMP` is a router's own PE."""
PORTS = (*LINKS, RAMP)
OPPOSITE = (SOUTH, WEST, NORTH, EAST)
"""On which side of its neighbour in each direction a router lies."""
Sides = str | Sequence[str]
Bits: TypeAlias = int | np.ndarray | jax.Array
"""One set of directions, or an array of them."""


def bits_of(sides: Sides, what: str) -> int:
    """Names of directions as a set of bits; `what` names them in the error.

    Raises:
      LimitExceeded: a name that is none.
    """
    several_given = isinstance(sides, list | tuple | set | frozenset)
    names = tuple(sides) if several_given else (sides,)
    if not names:
        given.refuse(f"{what} names no direction, must name one or more")
    for name in names:
        given.one_of(what, name, DIRECTIONS)
    return sum(1 << DIRECTIONS.index(name) for name in set(names))


def has(bits: Bits, direction: int) -> Any:
    """Whether sets hold a direction: a bool for an integer, an array of them for an array."""
    return (bits >> direction & 1) == 1


def several(bits: Bits) -> Any:
    """Whether sets hold more than one direction: without its lowest bit something is left."""
    return (bits & (bits - 1)) != 0


@functools.cache
def in_bits(bits: int) -> tuple[int, ...]:
    """The directions of one set, in the order of their numbers."""
    return tuple(direction for direction in PORTS if has(bits, direction))


def flat_steps(width: int) -> tuple[int, int, int, int]:
    """What a hop in each direction adds to a flat index `y * width + x`.

    On a fabric 10 PEs wide, a hop to the south adds 10 and one to the west takes 1 away.
    """
    return -width, 1, width, -1


def neighbour(grid: np.ndarray, direction: int, beyond: int | bool = 0) -> np.ndarray:
    """`[..., height, width]`: each PE's neighbour's entry; `beyond` where it has no neighbour."""
    found = np.full_like(grid, beyond)
    all_but_last = slice(None, -1)
    all_but_first = slice(1, None)
    if direction == NORTH:
        found[..., all_but_first, :] = grid[..., all_but_last, :]
    elif direction == SOUTH:
        found[..., all_but_last, :] = grid[..., all_but_first, :]
    elif direction == WEST:
        found[..., all_but_first] = grid[..., all_but_last]
    else:
        found[..., all_but_last] = grid[..., all_but_first]
    return found


__all__ = [
    "DIRECTIONS",
    "EAST",
    "LINKS",
    "NORTH",
    "OPPOSITE",
    "PORTS",
    "RAMP",
    "SOUTH",
    "Sides",
    "WEST",
    "bits_of",
    "flat_steps",
    "has",
    "in_bits",
    "neighbour",
    "several",
]
