"""Names for annotations: a PE's memory."""

from typing import TypeAlias

import jax

Sram: TypeAlias = jax.Array
"""An array in a PE's SRAM, of any shape; its bytes are counted."""

__all__ = ["Sram"]
