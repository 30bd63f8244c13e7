"""Instances and UltraServers: how many chips, and which of them a link joins."""

import dataclasses
import math

from emu.datasheet import Quantity
from emu.trainium.datasheets.sheet import HARDWARE

_TRN1 = f"{HARDWARE}/trn1-arch.rst"
_TRN2 = f"{HARDWARE}/trn2-arch.rst"
_TRN3 = f"{HARDWARE}/trn3-arch.rst"
_DIRECTION = "both directions or each: half of it is nominal, as nobody says"


@dataclasses.dataclass(frozen=True, kw_only=True)
class System:
    """Chips that share memory over NeuronLink.

    Attributes:
      name: of the instance or UltraServer.
      generation: of the NeuronCores in its chips, as in their datasheet.
      dims: chips along each dimension; their product is the number of chips, which count through
        the last dimension first.
      switched: whether switches join every chip with every other; else each dimension is a ring
        (a torus), and the only links are to the neighbours on it.
      link_bytes_per_s: by dimension, from one chip to one neighbour, one direction; in a switched
        system from one chip to the switches that join this dimension.
      efa_bytes_per_s: of the whole system into the network, one direction.
      source: of the dimensions.
    """

    name: str
    generation: int
    dims: tuple[int, ...]
    switched: bool
    link_bytes_per_s: tuple[Quantity, ...]
    efa_bytes_per_s: Quantity
    source: str

    @property
    def chips(self) -> int:
        return math.prod(self.dims)

    def rates(self, band: str) -> tuple[float, ...]:
        """`link_bytes_per_s` under `band`: low is the shortest time."""
        return tuple(q.at(band) for q in self.link_bytes_per_s)

    def place(self, chip: int) -> tuple[int, ...]:
        """Where a chip stands along each dimension.

        Raises:
          ValueError: no such chip.
        """
        if not 0 <= chip < self.chips:
            raise ValueError(
                f"{self.name}: chip is {chip}, must be 0 to {self.chips - 1}"
            )
        place = []
        for size in reversed(self.dims):
            chip, at = divmod(chip, size)
            place.append(at)
        return tuple(reversed(place))

    def hops(self, a: int, b: int) -> int:
        """Links on the shortest way from chip `a` to chip `b`; a way through switches counts 1."""
        if self.switched:
            return int(self.place(a) != self.place(b))
        return sum(
            min((x - y) % size, (y - x) % size)
            for x, y, size in zip(self.place(a), self.place(b), self.dims, strict=True)
        )

    def neighbours(self, chip: int) -> list[int]:
        """The chips one hop away, lowest first."""
        return [c for c in range(self.chips) if self.hops(chip, c) == 1]


def _each(bytes_per_s: float, source: str) -> Quantity:
    """A published rate that may count both directions."""
    source = f"{source}; {_DIRECTION}"
    return Quantity(bytes_per_s / 2, "derived", source, bytes_per_s, bytes_per_s / 2)


_TORUS2 = _each(256e9, f"{_TRN2}: 1024 GB/s a chip to 4 neighbours of its instance")

TRN1_32XLARGE = System(
    name="trn1.32xlarge",
    generation=2,
    dims=(4, 4),
    switched=False,
    source=_TRN1,
    link_bytes_per_s=(_each(96e9, f"{HARDWARE}/trainium.rst: 384 GB/s a chip to 4"),)
    * 2,
    efa_bytes_per_s=Quantity(100e9, "published", f"{_TRN1}: 800 Gbps"),
)
TRN1N_32XLARGE = dataclasses.replace(
    TRN1_32XLARGE,
    name="trn1n.32xlarge",
    link_bytes_per_s=(_each(192e9, f"{HARDWARE}/trainium.rst: 768 GB/s a chip to 4"),)
    * 2,
    efa_bytes_per_s=Quantity(200e9, "published", f"{_TRN1}: 1600 Gbps"),
)
TRN2_48XLARGE = System(
    name="trn2.48xlarge",
    generation=3,
    dims=(4, 4),
    switched=False,
    source=_TRN2,
    link_bytes_per_s=(_TORUS2,) * 2,
    efa_bytes_per_s=Quantity(400e9, "published", f"{_TRN2}: EFAv3, 3.2 Tbps"),
)
TRN2_ULTRASERVER = System(
    name="Trn2 UltraServer",
    generation=3,
    dims=(4, 4, 4),
    switched=False,
    source=f"{_TRN2}: 4 instances; chips at the same place of each form a ring",
    link_bytes_per_s=(
        _each(128e9, f"{_TRN2}: 256 GB/s a chip to 2 neighbours of other instances"),
        _TORUS2,
        _TORUS2,
    ),
    efa_bytes_per_s=Quantity(1.6e12, "derived", f"{_TRN2}: 4 instances of 3.2 Tbps"),
)
_SERVER = (
    _each(320e9, f"{_TRN3}: 5 PCIe Gen6 x8 links a chip to other servers of the rack"),
    _each(256e9, f"{_TRN3}: 4 PCIe Gen6 x8 links a chip within its server"),
)
TRN3_GEN1 = System(
    name="Trn3 Gen1 UltraServer",
    generation=4,
    dims=(16, 4),
    switched=True,
    link_bytes_per_s=_SERVER,
    efa_bytes_per_s=Quantity(1.6e12, "published", f"{_TRN3}: 12.8 Tbps"),
    source=f"{_TRN3}: 64 chips, 4 a sled by its connectivity, 16 a server by its text",
)
TRN3_GEN2 = System(
    name="Trn3 Gen2 UltraServer",
    generation=4,
    dims=(36, 4),
    switched=True,
    link_bytes_per_s=_SERVER,
    efa_bytes_per_s=Quantity(3.6e12, "published", f"{_TRN3}: 28.8 Tbps"),
    source=f"{_TRN3}: 36 servers of 4; racks are joined by 2 more links a chip, 128 GB/s",
)

SYSTEMS = (
    TRN1_32XLARGE,
    TRN1N_32XLARGE,
    TRN2_48XLARGE,
    TRN2_ULTRASERVER,
    TRN3_GEN1,
    TRN3_GEN2,
)
