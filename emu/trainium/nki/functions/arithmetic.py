"""What Python's operators mean between the old generation's tiles: `a + b`, `tile[...] = value`."""

from emu.errors import EmulationError
from emu.trainium.nki.handles import Handle


def binary(name: str, left: "Handle | float", right: "Handle | float") -> Handle:
    """`left name right`, with NKI's name of the operator, such as `subtract`."""
    raise EmulationError(
        f"nki: {name} by a Python operator is not supported, got {left}, {right}"
    )


def assign(destination: Handle, value: "Handle | float") -> None:
    """`destination[...] = value`."""
    raise EmulationError(
        f"nki: storing by an index is not supported, got {destination}, {value}"
    )


def accumulate(destination: Handle, value: "Handle | float") -> Handle:
    """`destination += value`; returns the destination."""
    raise EmulationError(f"nki: += is not supported, got {destination}, {value}")
