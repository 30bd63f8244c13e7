"""What a gated MLP makes of gate and up, element by element, on a PE."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from emu.lower import Input, read
from emu.wse import WSE3, fill, silu, sram_tile, vector
from emu.wse.lower import DATA, Argument, Lowered, lower
from emu.wse.spaces import Sram
from kernels.refusal import refuse

GatedFunction = Callable[[jax.Array, jax.Array], jax.Array]
"""Of gate and up."""

# gpt-oss: `gate * sigmoid(1.702 gate)`, an approximation of GELU (arXiv:1606.08415, section 2).
SIGMOID_SLOPE = 1.702

KINDS = ("silu", "gelu_tanh", "clamped_swiglu")


@dataclasses.dataclass(frozen=True)
class Activation:
    """An activation of a gated MLP.

    Attributes:
      kind: `"silu"`, `silu(gate) * up`; `"gelu_tanh"`, `gelu(gate) * up` with GELU's tanh form;
        `"clamped_swiglu"`, `(up + 1) * gate * sigmoid(1.702 gate)` of a clamped gate and up
        (gpt-oss).
      limit: of the clamped one: gate is at most that, up lies within plus and minus it.
    """

    kind: str = "silu"
    limit: float = 7.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            refuse(f"activation is {self.kind!r}, must be one of {', '.join(KINDS)}")
        if not self.limit > 0:
            refuse(f"limit is {self.limit}, must be more than 0")

    @property
    def function(self) -> GatedFunction:
        """In plain JAX, of any shape."""
        if self.kind == "silu":
            return _silu_gated
        if self.kind == "gelu_tanh":
            return _gelu_gated
        return functools.partial(_clamped_gated, self.limit)


SILU = Activation()


def _silu_gated(gate: jax.Array, up: jax.Array) -> jax.Array:
    return jax.nn.silu(gate) * up


def _gelu_gated(gate: jax.Array, up: jax.Array) -> jax.Array:
    cubed = gate * gate * gate
    inner = np.float32(np.sqrt(2 / np.pi)) * (gate + np.float32(0.044715) * cubed)
    return np.float32(0.5) * gate * (np.float32(1) + jnp.tanh(inner)) * up


def _clamped_gated(limit: float, gate: jax.Array, up: jax.Array) -> jax.Array:
    most = np.float32(limit)
    gate = jnp.minimum(gate, most)
    up = jnp.maximum(jnp.minimum(up, most), -most)
    share = jax.nn.sigmoid(np.float32(SIGMOID_SLOPE) * gate)
    return (up + np.float32(1)) * gate * share


def activated(activation: Activation, gate: Sram, up: Sram) -> Sram:
    """The activation of gate and up, float32, each `[n]` or `[rows, n]`, in a tile of its own."""
    if activation.kind == "silu":
        mine = sram_tile(shape=gate.shape, dtype="float32")
        mine = silu(mine, gate)
        return vector(mine, mine, up, op="mul")
    shape = gate.shape
    rows = shape if len(shape) == 2 else (1, *shape)
    on_pe = lowered(activation, *rows)
    numbers = {}
    for key, leaf in on_pe.leaves.items():
        value = float(leaf.values(on_pe.function, {}).reshape(()))
        tile = sram_tile(shape=(1, 1), dtype=leaf.held.name)
        numbers[key] = fill(tile, value=value)
    data = {"gate": gate.reshape(rows), "up": up.reshape(rows)}
    # Gate and up are views of what a sum has left, which is not written to.
    result = on_pe.run(data, numbers, jnp.int32(rows[1]), overwrite=False)
    return result.reshape(shape)


@functools.lru_cache
def lowered(activation: Activation, rows: int, elements: int) -> Lowered:
    """The activation as a PE's instructions on tiles `[rows, elements]`.

    What is vector operations and what is scalar code is chosen by a WSE-3's cycles, as a program is
    the same on every machine that it is read for.
    """
    names = ("gate", "up")
    inputs = [Input(name, frozenset({"row", "slot"}), jnp.float32) for name in names]
    function = read(activation.function, inputs, f"activation {activation.kind}")
    arguments = {name: Argument(DATA, rows=True, slots=True) for name in names}
    return lower(function, arguments, rows=rows, slots=elements, device=WSE3.at())


__all__ = ["Activation", "GatedFunction", "KINDS", "SILU", "activated", "lowered"]
