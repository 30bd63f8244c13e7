"""A number with its source, its kind and, where it is not simply published, its band.

A datasheet is a frozen dataclass whose fields are `Quantity`; `at(sheet, band)` resolves it to a
`Device` of plain numbers. Programs are timed under the three bands, so every table can print
low / nominal / high (low is the shortest time).
"""

import dataclasses
import enum
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from emu import given
from emu.clock.throttle import UNITS, Law

BANDS = ("low", "nominal", "high")
KINDS = ("published", "derived", "measured", "fitted", "assumed")


class Packing(enum.Enum):
    """How a tile lies in the grains that a memory's partitions are handed out in, such as banks.

    `WHOLE` has grains of its own; `NAMED` its bytes of one grain that the kernel names, beside
    others that name it; `SHARED` is put beside others that share, wherever there is room.
    """

    WHOLE = enum.auto()
    NAMED = enum.auto()
    SHARED = enum.auto()

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> "Packing":
        """That of a declaration with such parameters."""
        if parameters.get("bank") is not None:
            return cls.NAMED
        return cls.SHARED if parameters.get("shares") else cls.WHOLE


def packed_bytes(nbytes: int, grain: int, packing: Packing) -> int:
    """Bytes of a partition that a tile takes where they are handed out in grains.

    One that shares takes the next power of two, and from a grain on whole grains. Such sizes divide
    each other, so tiles of all of them, the largest first, fill grains without a gap and none lies
    across two: what they take adds up, and they fit if the sum does.

    Example: in banks of 2,048 bytes three tiles of 512 and one of 300 take one bank, not four.
    """
    if packing is Packing.NAMED:
        return nbytes
    if packing is Packing.SHARED and nbytes < grain:
        return 1 << max(0, nbytes - 1).bit_length()
    return math.ceil(nbytes / grain) * grain


@dataclasses.dataclass(frozen=True)
class Quantity:
    """One number of a datasheet.

    Attributes:
      value: the nominal value, in the unit its field's name ends with.
      kind: one of `KINDS`.
      source: where it comes from; for `fitted`, the ids of the points it was fitted to.
      low: the value with which programs take the shortest time; None where it is not in doubt.
      high: the value with which they take the longest.
    """

    value: Any
    kind: str
    source: str
    low: Any = None
    high: Any = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(
                f"kind is {self.kind!r}, must be one of {', '.join(KINDS)}"
            )
        if not self.source:
            raise ValueError("a quantity needs a source")
        if (self.low is None) != (self.high is None):
            raise ValueError("a band needs both ends, low and high")
        if self.kind in ("fitted", "assumed") and self.low is None:
            raise ValueError(f"a quantity that is {self.kind} needs a band")

    def at(self, band: str) -> Any:
        """The value under `band`, one of `BANDS`."""
        chosen = {"low": self.low, "nominal": self.value, "high": self.high}[band]
        return self.value if chosen is None else chosen


@dataclasses.dataclass(frozen=True)
class Sheet:
    """Base of every datasheet. Subclasses add `Quantity` fields; these describe the machine's form.

    Attributes:
      name: what reports call one core of the machine.
      core: what one core is called, such as `NeuronCore` or `PE`.
      home: memory space in which a kernel's arguments arrive.
      tick_hz: ticks a second, a multiple of every engine's clock; None if one tick is one cycle of
        the single clock `clock_hz`, which may then have a band.
      engines: engine to the name of the field with its clock; the value None counts ticks.
      capacity: memory space to the name of the field with its bytes per core; None is unbounded.
      partitioned: memory space to its partitions and the bytes of each that are handed out at once:
        a tile takes its bytes per partition on all of them, whichever it uses.
      causes: engine to what waiting for its results is called; by default its own name.
      throttles: engine that slows down when little used to the prefix of its three fields,
        `_window_s`, `_share` and `_slowdown` (see `emu.clock.throttle`).
      start_partitions: engine to the partitions in which its operands may begin, and to how many
        they may be from there; an engine that is not listed takes any.
      instead: JAX primitive of which there is no instruction, or view that cannot move data between
        partitions, to what a kernel can call instead.
    """

    name: str
    core: str
    home: str
    tick_hz: int | None
    engines: Mapping[str, str | None]
    capacity: Mapping[str, str | None]
    partitioned: Mapping[str, tuple[int, int]] = dataclasses.field(
        default_factory=dict[str, tuple[int, int]], kw_only=True
    )
    causes: Mapping[str, str] = dataclasses.field(
        default_factory=dict[str, str], kw_only=True
    )
    throttles: Mapping[str, str] = dataclasses.field(
        default_factory=dict[str, str], kw_only=True
    )
    start_partitions: Mapping[str, Mapping[int, int]] = dataclasses.field(
        default_factory=dict[str, Mapping[int, int]], kw_only=True
    )
    instead: Mapping[str, str] = dataclasses.field(
        default_factory=dict[str, str], kw_only=True
    )

    @property
    def deployed(self) -> str:
        """How much of the machine runs, and what it is part of; empty where that goes without."""
        return ""

    def quantities(self) -> dict[str, Quantity]:
        """Every number of this datasheet by field name."""
        quantities: dict[str, Quantity] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Quantity):
                quantities[field.name] = value
        return quantities

    def at(self, band: str = "nominal") -> "Device":
        """This datasheet's machine with every quantity taken at `band`."""
        return Device(self, band)


_MACHINES: dict[str, tuple[Sheet, ...]] = {}


def declare_machine(name: str, newest_first: Sequence[Sheet]) -> None:
    """Makes the generations of a machine known by the name its instructions begin with."""
    _MACHINES[name] = tuple(newest_first)


def machine(name: str) -> tuple[Sheet, ...]:
    """The generations of the machine whose instructions begin with `name`; none if unknown."""
    return _MACHINES.get(name, ())


@dataclasses.dataclass(frozen=True)
class Device:
    """A datasheet under one band: its quantities as plain attributes, and its integer clock."""

    sheet: Sheet
    band: str

    def __post_init__(self) -> None:
        given.one_of("band", self.band, BANDS)

    def __getattr__(self, field: str) -> Any:
        # Not `self.sheet`, which would come back here in a copy that has no sheet yet.
        sheet = object.__getattribute__(self, "sheet")
        value = getattr(sheet, field)
        if isinstance(value, Quantity):
            value = value.at(self.band)
        # From here on it is found without a look into the sheet: rules of cost ask for a few of
        # them tens of thousands of times.
        self.__dict__[field] = value
        return value

    @functools.cached_property
    def tick_hz(self) -> int:
        """Ticks a second."""
        return self.sheet.tick_hz or int(self.clock_hz)

    @functools.cached_property
    def ticks_per_cycle(self) -> dict[str, int]:
        """Ticks in one cycle of each engine, exactly."""
        ticks: dict[str, int] = {}
        for engine, clock in self.sheet.engines.items():
            # Trainium2 counts 4.8 GHz: a cycle of its Tensor Engine at 2.4 GHz is 2 ticks, one of
            # its Vector Engine at 0.96 GHz is 5. Were a cycle 4.9 ticks, each rounding would move
            # the engines against each other, and a million of them would add up.
            hz = self.tick_hz if clock is None else int(getattr(self, clock))
            if self.tick_hz % hz:
                raise ValueError(
                    f"{engine} at {hz} Hz does not divide {self.tick_hz} ticks/s"
                )
            ticks[engine] = self.tick_hz // hz
        return ticks

    @functools.cached_property
    def capacity_bytes(self) -> dict[str, int | None]:
        """Bytes of each memory space on one core; None is unbounded."""
        capacities: dict[str, int | None] = {}
        for space, field in self.sheet.capacity.items():
            capacities[space] = None if field is None else int(getattr(self, field))
        return capacities

    @functools.cached_property
    def throttle_laws(self) -> dict[str, Law]:
        """The law of every engine that throttles."""
        laws: dict[str, Law] = {}
        for engine, prefix in self.sheet.throttles.items():
            window_s = getattr(self, f"{prefix}_window_s")
            share = getattr(self, f"{prefix}_share")
            slowdown = getattr(self, f"{prefix}_slowdown")
            # At one end of a band an engine may not throttle at all: without a law the clock need
            # not follow its use.
            if slowdown > 1:
                laws[engine] = Law(self.ticks(window_s), round(share * UNITS), slowdown)
        return laws

    def footprint_bytes(
        self, space: str, aval: Any, packing: Packing = Packing.WHOLE
    ) -> int:
        """Bytes that a tile takes of a memory space.

        Example: 3 rows of 100 bfloat16 take 200 bytes of a partition. Of 128 partitions that hand
        out 64 bytes at once they take `128 * 256` bytes, though they use 3 partitions.

        Args:
          space: where it is.
          aval: its shape and dtype.
          packing: how it lies in the grains of each partition.
        """
        itemsize = aval.dtype.itemsize
        if space not in self.partitioned:
            return math.prod(aval.shape) * itemsize
        partitions, grain = self.partitioned[space]
        per_partition = math.prod(aval.shape[1:]) * itemsize
        return partitions * packed_bytes(per_partition, grain, packing)

    def ticks(self, seconds: float) -> int:
        """A duration in whole ticks, rounded up."""
        # To a millionth first: 15 ns at 4.8 GHz are 72 ticks, in floats 72.00000000000001.
        return math.ceil(round(seconds * self.tick_hz, 6))
