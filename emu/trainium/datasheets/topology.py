"""What a system is: how many chips, and which of them a link joins.

The instances and UltraServers stand with the generation of their chips, in `trn*.py`.
"""

import dataclasses
import math

from emu import given
from emu.datasheet import Quantity


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
        return tuple(rate.at(band) for rate in self.link_bytes_per_s)

    def place(self, chip: int) -> tuple[int, ...]:
        """Where a chip stands along each dimension.

        Raises:
          ValueError: no such chip.
        """
        if not 0 <= chip < self.chips:
            given.refuse(f"{self.name}: chip is {chip}, must be 0 to {self.chips - 1}")
        last_first: list[int] = []
        for size in reversed(self.dims):
            chip, at = divmod(chip, size)
            last_first.append(at)
        return tuple(reversed(last_first))

    def hops(self, source: int, target: int) -> int:
        """Links on the shortest way from one chip to another; a way through switches counts 1."""
        start = self.place(source)
        end = self.place(target)
        if self.switched:
            return int(start != end)
        hops = 0
        for here, there, size in zip(start, end, self.dims, strict=True):
            up = (there - here) % size
            down = (here - there) % size
            hops += min(up, down)
        return hops

    def neighbours(self, chip: int) -> list[int]:
        """The chips one hop away, lowest first."""
        return [other for other in range(self.chips) if self.hops(chip, other) == 1]


def each_direction(bytes_per_s: float, source: str) -> Quantity:
    """A published rate that may count both directions; half of it is nominal."""
    half = bytes_per_s / 2
    source = f"{source}; both directions or each: half of it is nominal, as nobody says"
    return Quantity(half, "derived", source, low=bytes_per_s, high=half)
