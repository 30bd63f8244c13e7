"""The newer generation: `nki`, `nki.language`, `nki.isa` (in `new_isa`) and `nki.collectives`.

Tensors are declared and written to; functions return nothing. Kernels are ordinary Python with
classes, lists and dictionaries of tiles.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from emu.annotations import DType
from emu.trainium.datasheets import GENERATIONS
from emu.trainium.engines.operators import BINARY, BITWISE, UNARY
from emu.trainium.nki import machine, new_isa, old
from emu.trainium.nki.dtypes import DTYPES
from emu.trainium.nki.functions import make, registers
from emu.trainium.nki.handles import Handle
from emu.trainium.nki.record import current


class Operator:
    """An operator or function that is only ever named: `op=nl.gelu_apprx_sigmoid`."""

    def __init__(self, operator: str):
        self.operator = operator
        self.__name__ = operator

    def __repr__(self) -> str:
        return f"nl.{self.operator}"


class NKIObject:
    """The base of classes that kernels define.

    One without an `__init__` takes its fields, in their order or by name, as a data class does. A
    field may do without an annotation.
    """

    def __init_subclass__(cls) -> None:
        known = cls.__dict__.get("__annotations__", {})
        for name, value in list(cls.__dict__.items()):
            is_field = value is None or isinstance(value, int | float | str | tuple)
            if is_field and not name.startswith("__") and name not in known:
                known = {**known, name: Any}
        cls.__annotations__ = known
        if cls.__init__ is NKIObject.__init__:
            # `@dataclass` leaves it alone then, whose own would want every field: NKI's compiler
            # takes an object that was not given one of them.
            cls.__init__ = NKIObject.__init__

    def __init__(self, *values: Any, **named: Any):
        fields: dict[str, None] = {}
        for base in reversed(type(self).__mro__):
            fields.update(dict.fromkeys(base.__dict__.get("__annotations__", {})))
        given = {**dict(zip(fields, values, strict=False)), **named}
        unknown = [name for name in given if name not in fields]
        if unknown or len(values) > len(fields):
            raise TypeError(
                f"{type(self).__name__}() takes {', '.join(fields) or 'nothing'}, got "
                f"{len(values)} values and {', '.join(named) or 'no names'}"
            )
        for name, field in getattr(self, "__dataclass_fields__", {}).items():
            if field.default_factory is not dataclasses.MISSING:
                given.setdefault(name, field.default_factory())
        for name, value in given.items():
            # Past the guard of a frozen data class.
            object.__setattr__(self, name, value)
        after = getattr(self, "__post_init__", None)
        if after is not None:
            after()


class TensorClass(type):
    """The type of what `nl.ndarray` makes."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, Handle)


class Ndarray(metaclass=TensorClass):
    """`nl.ndarray(shape, dtype, buffer)`: declares a tensor; also its type in annotations."""

    def __new__(
        cls,
        shape: Sequence[int],
        dtype: DType,
        buffer: object = None,
        name: str | None = "",
        address: object = None,
        **options: Any,
    ) -> Any:
        # Where a kernel places a tensor itself, scopes place it anew.
        return make.ndarray(shape, dtype, buffer, name=name or "")


class TileSize(machine.TileSize):
    """`nl.tile_size`."""

    @property
    def total_available_sbuf_size(self) -> int:
        return GENERATIONS[current().device].sbuf_partition_bytes


def zeros(
    shape: Sequence[int], dtype: DType, buffer: object = None, name: str = ""
) -> Handle:
    return make.full(shape, 0, dtype, buffer, name=name, function="nki.language.zeros")


def ones(
    shape: Sequence[int], dtype: DType, buffer: object = None, name: str = ""
) -> Handle:
    return make.full(shape, 1, dtype, buffer, name=name, function="nki.language.ones")


def full(
    shape: Sequence[int],
    fill_value: float,
    dtype: DType,
    buffer: object = None,
    name: str = "",
) -> Handle:
    return make.full(shape, fill_value, dtype, buffer, name=name)


def shared_constant(constant: object, dtype: DType | None = None) -> Handle:
    """An array of the kernel's own, or the file that holds it, in HBM."""
    if isinstance(constant, str):
        constant = np.load(constant)
    return make.shared_constant(constant, dtype)


def shared_identity_matrix(n: int, dtype: DType = np.uint8) -> Handle:
    """`[n, n]` in SBUF, as the newer generation has it."""
    from emu.trainium.nki.functions import transfer
    from emu.trainium.nki.handles import fresh

    title = "nki.language.shared_identity_matrix"
    held = make.shared_constant(np.identity(n, np.float32), dtype, name=title)
    tile = fresh((n, n), held.dtype, "sbuf")
    transfer.dma_copy(tile, held, name=title)
    return tile


def _range(kind: str) -> Any:
    def turns(
        start: object, stop: object = None, step: object = 1, **options: object
    ) -> Iterator[int]:
        name = f"nki.language.{kind}_range"
        first, last = (0, start) if stop is None else (start, stop)
        bounds = [registers.number_of(x, name, "a bound") for x in (first, last, step)]
        return current().turns(range(*bounds), kind)

    turns.__name__ = f"{kind}_range"
    return turns


def _only_named() -> dict[str, Operator]:
    """Operators that the older generation does not have as functions."""
    names = {"maximum", "minimum", "bypass", *BINARY, *BITWISE, *UNARY}
    return {name: Operator(name) for name in sorted(names - set(old.LANGUAGE))}


LANGUAGE: Mapping[str, object] = {
    **_only_named(),
    **old.LANGUAGE,
    "ndarray": Ndarray,
    "tensor": Ndarray,
    "NKIObject": NKIObject,
    "zeros": zeros,
    "ones": ones,
    "full": full,
    "shared_constant": shared_constant,
    "shared_identity_matrix": shared_identity_matrix,
    "range": _range("python"),
    "affine_range": _range("affine"),
    "sequential_range": _range("sequential"),
    "static_range": _range("static"),
    "dynamic_range": registers.dynamic_range,
    "tile_size": TileSize(),
    "bool": np.dtype(np.bool_),
}
ISA: Mapping[str, object] = new_isa.ISA


class ReplicaGroup:
    """`nki.collectives.ReplicaGroup`: which devices take part."""

    def __init__(self, groups: object):
        self.groups = groups


def rank_id() -> int:
    """The device's rank: one device is recorded, the first."""
    return 0


COLLECTIVES: Mapping[str, object] = {"ReplicaGroup": ReplicaGroup, "rank_id": rank_id}
MODULES: Mapping[str, Mapping[str, object]] = {
    "collectives": COLLECTIVES,
    "isa.constants": new_isa.CONSTANTS,
    "dtype": DTYPES,
}

__all__ = ["ISA", "LANGUAGE", "MODULES"]
