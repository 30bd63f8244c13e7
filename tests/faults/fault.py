"""What a seeded fault is: something to do, and what must be said of it."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from emu import Device, Program
from emu.trainium import (
    TRN1,
    TRN2,
    TRN3,
    TRN3_GEN2,
    dma_load,
    dma_store,
    on_system,
    sbuf,
)

Kernel: TypeAlias = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Fault:
    """A mistake of a user.

    Attributes:
      make: makes it.
      says: what the error must say, as a regular expression.
      line: whether the error ends with the line of the file that made it.
    """

    make: Callable[[], Any]
    says: str
    line: bool = True


Faults: TypeAlias = dict[str, Fault]

GENERATIONS: dict[int, Device] = {
    1: TRN1.at(),
    2: TRN2.at(),
    3: on_system(TRN3, TRN3_GEN2).at(),
}
F32, BF16, FP8 = jnp.float32, jnp.bfloat16, jnp.float8_e4m3fn
I32, U8 = jnp.int32, jnp.uint8


def array(*shape: int, dtype: Any = F32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


TILE = array(128, 512)
COLUMN = array(128, 1)


def load(x: jax.Array) -> jax.Array:
    """A whole HBM array in SBUF."""
    return dma_load(sbuf(*x.shape, dtype=x.dtype), x)


def reads(
    kernel: Kernel,
    *arguments: Any,
    trn: int = 2,
    mesh: dict[str, int] | None = None,
    **options: Any,
) -> Callable[[], Any]:
    """Reads a kernel's clock; every core has the arguments whole."""
    specs = ((),) * len(arguments)
    program = Program(kernel, mesh or {"core": 1}, specs)
    return lambda: program.read(GENERATIONS[trn], *arguments, **options)


def computes(
    instruction: Kernel, *arguments: Any, trn: int = 2, **options: Any
) -> Callable[[], Any]:
    """Reads a kernel that loads its arguments, does one thing with the tiles and stores it."""

    def kernel(*given: jax.Array) -> Sequence[jax.Array]:
        tiles = [load(x) for x in given]
        results = instruction(*tiles)
        return [dma_store(result) for result in jax.tree.leaves(results)]

    return reads(kernel, *arguments, trn=trn, **options)
