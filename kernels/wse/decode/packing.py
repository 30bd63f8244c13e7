"""Which regions of a whole model go on how many wafers, in the order in which they are to be tried.

All regions of a model have one height, so that row *i* hands over to row *i*. Where the number of
wafers is open, those on the fewest come first, whatever their cycles: a layer a little slower, of
which two share a wafer, goes before a faster one that needs a wafer of its own.

Of as many wafers, regions that stand upright go before turned ones, whose streams turn a corner at
the wafers' edges, and those beside the quickest head before those beside a narrower one. So regions
are turned, and heads narrow, only where that saves wafers. gpt-oss-120b's layers of 720 rows and
256 columns go two on a wafer upright and four turned, and its head beside them: 9 wafers, not 19.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator

from emu.datasheet import Device
from emu.wse.placement.regions import in_bands
from emu.wse.placement.wafers import MOST_WAFERS, Ground
from kernels.wse.decode.candidates import Choice, Choices, heads_of, heights
from kernels.wse.decode.demand import Demand
from kernels.wse.decode.mapping import HeadMap, LayerMap
from kernels.wse.decode.pe_bytes import Counted


@dataclasses.dataclass(frozen=True)
class Regions:
    """Regions of one height: of each kind of layers, and the head's.

    Attributes:
      layers: the mapping of each kind.
      head: of embedding and output head.
      cycles: of a token, roughly.
      wafers: the fewest that have room for all.
      ground: the wafers, and whether the regions are turned on them.
    """

    layers: tuple[LayerMap, ...]
    head: HeadMap
    cycles: float
    wafers: int
    ground: Ground


def candidates(demand: Demand, counted: Counted) -> Iterator[Regions]:
    """Regions whose tables and caches leave room for code, those to be tried first first.

    Who asks for the next one has counted that bytes of the one before do not fit.
    """
    packing = Packing(demand)
    wafers = demand.wafers
    numbers = range(1, MOST_WAFERS + 1) if wafers is None else [wafers]
    for number in numbers:
        for turned in (False, True):
            more = True
            while more:
                found = packing.on(number, turned)
                yield from found
                more = packing.drop(found, counted)


def ground_of(device: Device, rows: int, turned: bool) -> Ground:
    """Wafers for regions of that height."""
    if turned:
        return Ground(device.grid_height, device.grid_width, rows, turned)
    return Ground(device.grid_width, device.grid_height, rows)


class Packing:
    """How many wafers regions take, and which regions so many have room for."""

    def __init__(self, demand: Demand):
        self.demand = demand
        self.choices = Choices(demand)
        self._widths = range(max(demand.widths) + 1)
        # Which width each layer has.
        self._of_layers = [demand.widths[kind] for kind in demand.of_layers]
        self._bands: dict[tuple[int, ...], int | None] = {}
        self._heads: dict[int, list[tuple[HeadMap, float]]] = {}

    def on(self, wafers: int, turned: bool) -> list[Regions]:
        """Regions that take so many wafers, the quickest first, beside the quickest head first.

        Where the number is given, those that take fewer as well.
        """
        found = []
        for rows in heights(self.demand):
            ground = ground_of(self.demand.device, rows, turned)
            narrowest = self._narrowest(ground, wafers) if ground.bands else None
            if narrowest is not None:
                found += self._regions(ground, wafers, narrowest)
        found.sort(key=lambda each: (each[0], each[1].cycles))
        return [regions for _, regions in found]

    def _narrowest(self, ground: Ground, wafers: int) -> list[int] | None:
        """The fewest columns of each width that have room; None: they take more wafers."""
        hopeful = [self.choices.hopeful(ground.rows, width) for width in self._widths]
        if not self._heads_of(ground.rows) or not all(hopeful):
            return None
        # First by a bound of their bytes, in no time, then by the narrowest that have room.
        found = [math.prod(columns) for columns, *_ in hopeful]
        for width in self._widths:
            for columns in hopeful[width]:
                found[width] = math.prod(columns)
                if not self._does(ground, found, wafers):
                    return None
                if self.choices.has_room(ground.rows, width, columns):
                    break
            else:
                return None
        return found

    def _does(self, ground: Ground, cols: list[int], wafers: int) -> bool:
        """Whether so many wafers have room for such widths and the narrowest head."""
        head_cols = min(head.cols for head, _ in self._heads_of(ground.rows))
        needed = self._wafers(ground, cols, head_cols)
        return needed is not None and needed <= wafers

    def drop(self, regions: list[Regions], counted: Counted) -> bool:
        """Takes out what programs have been counted to have no room for.

        Whether others come in their place, see `Choices.drop`.
        """
        demand = self.demand
        some = False
        dropped: set[tuple[int, LayerMap]] = set()
        for each in regions:
            for number, layer in enumerate(each.layers):
                width = demand.widths[number]
                if (width, layer) in dropped:
                    continue
                if counted.is_out(demand.kinds[number], layer, demand.users):
                    dropped.add((width, layer))
                    some |= self.choices.drop(width, layer)
        return some

    def _regions(
        self, ground: Ground, wafers: int, narrowest: list[int]
    ) -> list[tuple[bool, Regions]]:
        """Those on a ground that take so many, with whether their head is a narrower one."""
        heads = self._heads_of(ground.rows)
        found = []
        for chosen in itertools.product(*self._choices(ground, wafers, narrowest)):
            cols = [choice.cols for choice in chosen]
            for place, (head, cycles) in enumerate(heads):
                needed = self._wafers(ground, cols, head.cols)
                if needed is None or needed > wafers:
                    continue
                if needed == wafers or self.demand.wafers is not None:
                    cycles += sum(choice.cycles for choice in chosen)
                    layers = _in_order(chosen)
                    regions = Regions(layers, head, cycles, needed, ground)
                    found.append((place > 0, regions))
                break
        return found

    def _choices(
        self, ground: Ground, wafers: int, narrowest: list[int]
    ) -> list[list[Choice]]:
        """Of each width, those with which so many wafers do beside the narrowest others."""
        found = []
        for width in self._widths:
            columns = self.choices.hopeful(ground.rows, width)
            most = narrowest[width]
            for own in map(math.prod, columns):
                tried = [*narrowest[:width], own, *narrowest[width + 1 :]]
                if own > most and self._does(ground, tried, wafers):
                    most = own
            found.append(self.choices.of(ground.rows, width, most))
        return found

    def _wafers(self, ground: Ground, cols: list[int], head_cols: int) -> int | None:
        """Wafers that have room for layers of such widths and the head; None: one has none."""
        # Heights differ by bands a wafer alone.
        key = ground.width, *cols, head_cols
        if key not in self._bands:
            stops = [*(cols[width] for width in self._of_layers), head_cols]
            fits = max(stops) <= ground.width
            self._bands[key] = len(in_bands(ground.width, stops)) if fits else None
        bands = self._bands[key]
        # Bands are not cut, so wafers are filled by the band.
        return None if bands is None else -(-bands // ground.bands)

    def _heads_of(self, rows: int) -> list[tuple[HeadMap, float]]:
        if rows not in self._heads:
            self._heads[rows] = heads_of(self.demand, rows)
        return self._heads[rows]


def _in_order(chosen: tuple[Choice, ...]) -> tuple[LayerMap, ...]:
    """The mapping of each kind, in the order of the kinds."""
    layers: dict[int, LayerMap] = {}
    for choice in chosen:
        layers |= choice.layers
    return tuple(layers[kind] for kind in range(len(layers)))


__all__ = ["Packing", "Regions", "candidates", "ground_of"]
