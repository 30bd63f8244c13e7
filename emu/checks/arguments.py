"""What a program may be made of and given: its mesh, its specs and arguments, a machine."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from emu import given
from emu.datasheet import Device, Sheet

MOST_CORES = 2**20
"""A whole WSE-3 has some 900,000 PEs; times are kept core by core once cores differ."""


def check_mesh(mesh: Mapping[str, int]) -> None:
    """Raises `LimitExceeded` for axes without a name, or with a size that no machine has."""
    if not isinstance(mesh, Mapping):
        given.refuse(
            f"mesh is {given.told(mesh)}, must be a dictionary of axes and their sizes"
        )
    for axis, size in mesh.items():
        given.name("mesh: an axis", axis)
        given.whole(f"mesh: size of axis '{axis}'", size, 1, MOST_CORES)
    cores = math.prod(mesh.values())
    if cores > MOST_CORES:
        sizes = " x ".join(map(str, mesh.values()))
        given.refuse(f"mesh: {sizes} are {cores} cores, at most {MOST_CORES}")


def is_spec(spec: Any) -> bool:
    """Whether it is one spec, and not a tree of them."""
    if not isinstance(spec, tuple):
        return False
    return all(axis is None or isinstance(axis, str) for axis in spec)


def check_specs(mesh: Mapping[str, int], what: str, specs: Any) -> None:
    """Raises `LimitExceeded` for specs that are none, or over other axes than the mesh has.

    Args:
      mesh: of the program.
      what: names them in the error.
      specs: a tree of specs.
    """
    # None and numbers are leaves as well, or none at all, of which a tree would not tell.
    leaves = jax.tree.leaves(specs, is_leaf=lambda x: x is None or is_spec(x))
    for spec in leaves:
        if not is_spec(spec):
            given.refuse(
                f"{what} has {given.told(spec)}, must be axes in brackets, such as ('core',), or "
                "() for an array that every core has whole"
            )
        named = [axis for axis in spec if axis is not None]
        for axis in named:
            if axis not in mesh:
                axes = ", ".join(mesh) or "none"
                given.refuse(f"{what} names axis '{axis}', the mesh has {axes}")
        if len(set(named)) < len(named):
            given.refuse(f"{what} is {given.told(spec)}, must name an axis once")


def check_count(arguments: Sequence[Any], in_specs: Sequence[Any]) -> None:
    """Raises `LimitExceeded` unless there are as many arguments as specs."""
    if len(arguments) != len(in_specs):
        given.refuse(
            f"{given.counted(len(arguments), 'argument')}, must be {len(in_specs)}, one for each "
            "of in_specs"
        )


def checked_array(what: str, value: Any) -> Any:
    """An argument's leaf: an array or its shape and dtype; a number as an array of none.

    Raises:
      LimitExceeded: anything else.
    """
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        # A Python number is an argument like any other: one scalar, the same on every core.
        if not isinstance(value, int | float):
            given.refuse(
                f"{what} is {given.told(value)}, must be an array or its shape"
            )
        value = np.asarray(value)
    if not any(jnp.issubdtype(value.dtype, kind) for kind in given.REAL):
        given.refuse(f"{what} is {given.described(value)}, must be of real numbers")
    return value


def checked_known(what: str, value: Any) -> np.ndarray:
    """The integers of a `Known`.

    Raises:
      LimitExceeded: it holds something else.
    """
    try:
        found = np.asarray(value)
    except (TypeError, ValueError):  # ragged
        found = np.asarray(None)
    if found.dtype.kind not in "iub":
        given.refuse(f"{what} is Known({given.told(value)}), must hold whole numbers")
    return found


def check_split(
    mesh: Mapping[str, int], what: str, value: Any, spec: tuple[str | None, ...]
) -> None:
    """Raises `LimitExceeded` where an array cannot be split as its spec says."""
    shape = list(value.shape)
    if len(shape) < len(spec):
        given.refuse(
            f"{what} is {given.described(value)}, its spec {spec} wants {len(spec)} dimensions or "
            "more"
        )
    for dimension, axis in enumerate(spec):
        if axis is not None and shape[dimension] != mesh[axis]:
            given.refuse(
                f"{what} is {given.described(value)}: dimension {dimension} must be "
                f"{mesh[axis]}, the size of axis '{axis}'"
            )


def check_device(device: Any) -> None:
    """Raises `LimitExceeded` for what is no machine under a band."""
    if isinstance(device, Sheet):
        given.refuse(
            f"device is the datasheet of {device.name}, must be at a band, such as `sheet.at()`"
        )
    if not isinstance(device, Device):
        given.refuse(
            f"device is {given.told(device)}, must be a machine, such as `TRN2.at()`"
        )


def check_sheet(sheet: Any) -> None:
    """Raises `LimitExceeded` for what is no datasheet."""
    if isinstance(sheet, Device):
        given.refuse(
            f"sheet is {sheet.name} at a band, must be the datasheet itself, `device.sheet`"
        )
    if not isinstance(sheet, Sheet):
        given.refuse(
            f"sheet is {given.told(sheet)}, must be a datasheet, such as `TRN2`"
        )


def check_core(mesh: Mapping[str, int], core: Any) -> None:
    """Raises `LimitExceeded` unless `core` is None or the place of a core on the mesh."""
    if core is None:
        return
    sizes = tuple(mesh.values())
    if not isinstance(core, tuple | list) or len(core) != len(sizes):
        given.refuse(
            f"trace_core is {given.told(core)}, must be {given.counted(len(sizes), 'index')}"
            f", of {', '.join(mesh)}"
        )
    for (axis, size), place in zip(mesh.items(), core, strict=True):
        given.whole(f"trace_core: place on axis '{axis}'", place, 0, size - 1)


__all__ = [
    "MOST_CORES",
    "check_core",
    "check_count",
    "check_device",
    "check_mesh",
    "check_sheet",
    "check_specs",
    "check_split",
    "checked_array",
    "checked_known",
    "is_spec",
]
