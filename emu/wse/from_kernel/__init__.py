"""A kernel's jaxpr as a fabric program: one stepper run gives the values and cycles of it all."""

from emu.wse.from_kernel.translate import Translated, translated

__all__ = ["Translated", "translated"]
