"""The size of a mesh axis, for who exchanges data along it."""

from typing import Any

from jax import lax

from emu import given


def axis_size(name: str, axis: Any) -> int:
    """Cores along an axis of the mesh of the program that is being traced.

    Args:
      name: of the instruction, for errors.
      axis: of the mesh.

    Raises:
      LimitExceeded: no such axis.
    """
    given.name(f"{name}: axis", axis)
    try:
        return lax.axis_size(axis)
    except NameError:
        given.refuse(f"{name}: axis is '{axis}', must be one of the program's mesh")


__all__ = ["axis_size"]
