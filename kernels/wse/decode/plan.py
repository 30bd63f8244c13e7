"""The regions for a whole model: on the fewest wafers, the fastest by estimate that really fit."""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

from emu.datasheet import Device
from emu.wse.placement.edges import crossing_hops
from emu.wse.placement.regions import Rect, gap_hops
from emu.wse.placement.wafers import MOST_WAFERS, FloorPlan, floor_plan
from kernels.refusal import refuse
from kernels.wse.decode import sizes
from kernels.wse.decode.demand import Demand, EndsForm, LayerKind, ModelSizes
from kernels.wse.decode.held import WIDE, Held
from kernels.wse.decode.limits import Limits, refusal
from kernels.wse.decode.mapping import HeadMap
from kernels.wse.decode.packing import Regions, candidates
from kernels.wse.decode.pe_bytes import Bytes, Counted, PlacedKind


@dataclasses.dataclass(frozen=True)
class Way:
    """How the residual stream comes to a region from the one before.

    Attributes:
      hops: on the fabric, besides the one across the region's boundary.
      crosses: whether it comes from another wafer.
    """

    hops: int
    crosses: bool


@dataclasses.dataclass(frozen=True)
class WaferPlan:
    """A model on wafers.

    Attributes:
      kinds: of layers, each once.
      of_layers: which of them each layer is.
      floor: where their regions lie, and the head's.
      head: what each PE of the head's region holds.
      tied: whether one table serves both ends.
      head_bytes: of the fullest PE of the head's region: weights, buffers, code.
      grid: PEs of a wafer, width and height.
      users: whose caches stand in every layer's region.
    """

    kinds: tuple[PlacedKind, ...]
    of_layers: tuple[int, ...]
    floor: FloorPlan
    head: HeadMap
    tied: bool
    head_bytes: Bytes
    grid: tuple[int, int]
    users: int = 1

    @property
    def layers(self) -> tuple[PlacedKind, ...]:
        """The kind of each layer."""
        return tuple(self.kinds[kind] for kind in self.of_layers)

    @property
    def turned(self) -> bool:
        """Whether regions' rows lie side by side from west to east."""
        return self.floor.turned

    @property
    def wafers(self) -> int:
        """How many there are."""
        return self.floor.wafers

    @property
    def regions(self) -> tuple[Rect, ...]:
        """Each layer's rectangle on its wafer, in the order of the layers."""
        return self.floor.regions

    @property
    def of_wafers(self) -> tuple[int, ...]:
        """Each layer's wafer, from 0 on."""
        return self.floor.of_wafers

    @property
    def head_region(self) -> Rect:
        """The rectangle of embedding and output head."""
        return self.floor.head

    @property
    def head_wafer(self) -> int:
        """Its wafer, the last one."""
        return self.floor.head_wafer

    @property
    def layer_bytes(self) -> Bytes:
        """Bytes of the fullest PE of all layers' regions."""
        return max((kind.bytes for kind in self.kinds), key=lambda x: sum(x.values()))

    @property
    def pes(self) -> int:
        """PEs used in all."""
        of_layers = sum(region.pes for region in self.regions)
        return of_layers + self.head_region.pes

    @property
    def ways(self) -> tuple[Way, ...]:
        """How a token comes into each layer's region, then into the head's."""
        # A token begins and ends at the head's region, which holds the embedding too.
        regions = (self.head_region, *self.regions, self.head_region)
        wafers = (self.head_wafer, *self.of_wafers, self.head_wafer)
        width, _ = self.grid
        turned = self.turned
        ways = []
        for (behind, a), (ahead, b) in itertools.pairwise(
            zip(regions, wafers, strict=True)
        ):
            if a != b:
                hops = crossing_hops(behind, ahead, width, turned)
            elif turned:
                hops = gap_hops(behind.turned, ahead.turned)
            else:
                hops = gap_hops(behind, ahead)
            ways.append(Way(hops, crosses=a != b))
        return tuple(ways)


def plan_wafer(
    config: ModelSizes,
    context: int,
    dtype: str,
    device: Device,
    kinds: Sequence[LayerKind] = (LayerKind(),),
    of_layers: Sequence[int] = (),
    ends: EndsForm = EndsForm(),
    held: Held = WIDE,
    users: int = 1,
    wafers: int | None = None,
) -> WaferPlan:
    """Chooses regions and checks, byte by byte, that they fit.

    Args:
      config: the model's sizes.
      context: tokens that each user's cache must hold.
      dtype: of weights and cache.
      device: a wafer, of which there may be several.
      kinds: of layers, each once.
      of_layers: which of them each layer is; none: all are the first.
      ends: what embedding and output head compute.
      held: what of each layer is in codes; tables and norms are in `dtype`.
      users: whose caches, each of `context` tokens, stand in every layer's region.
      wafers: how many the model is cut over, between layers; None: the fewest that hold it. More of
        them give layers larger regions where these are faster.

    Raises:
      CannotLower: a variant's arithmetic that a PE has not, with the user's line.
      DoesNotFit: no choice fits; it says how many wafers, which context and how many users would.
    """
    sizes.check_wafer(device)
    sizes.within("context", context, 1, sizes.MOST)
    sizes.within("users", users, 1, sizes.MOST)
    sizes.check_dtype(dtype)
    sizes.check_whole(
        config,
        *("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"),
        *("num_attention_heads", "num_key_value_heads", "head_dim"),
    )
    layers = config.num_hidden_layers
    if wafers is not None:
        # One for each layer, and one for the head.
        sizes.within("wafers", wafers, 1, min(MOST_WAFERS, layers + 1))
    of_layers = tuple(int(kind) for kind in of_layers) or (0,) * layers
    if len(of_layers) != layers:
        refuse(
            f"of_layers has {len(of_layers)} kinds, must have one for {layers} layers"
        )
    for kind in of_layers:
        sizes.within("a layer's kind", kind, 0, len(kinds) - 1)
    demand = Demand(
        *(config, context, dtype, device, tuple(kinds), of_layers, ends, held),
        users=users,
        wafers=wafers,
    )
    counted = Counted(device)
    plan = fastest(demand, counted)
    if plan is None:
        raise refusal(demand, Limits(counted, fastest))
    return plan


def fastest(demand: Demand, counted: Counted) -> WaferPlan | None:
    """The fastest by estimate that really fit, on the fewest wafers where their number is open."""

    # Counting a PE's bytes traces its programs, so the best by estimate are counted first, until
    # one fits.
    for regions in candidates(demand, counted):
        plan = place(regions, demand, counted)
        if plan is not None:
            return plan
    return None


def place(regions: Regions, demand: Demand, counted: Counted) -> WaferPlan | None:
    """The plan of chosen regions, or None where a PE's bytes do not fit."""
    head, device = regions.head, demand.device
    # What is fullest first: where that does not fit, others need not be counted.
    kinds: dict[int, PlacedKind] = {}
    fullest = functools.partial(_weight_bytes, regions)
    for number in sorted(range(len(demand.kinds)), key=fullest, reverse=True):
        kind, layer = demand.kinds[number], regions.layers[number]
        placed_kind = counted.layer(kind, layer, demand.users)
        if placed_kind is None:
            return None
        kinds[number] = placed_kind
    head_bytes = counted.head(head, demand.tables)
    widths = [regions.layers[kind].cols for kind in demand.of_layers]
    wafers = demand.wafers or regions.wafers
    floor = floor_plan(regions.ground, widths, head.cols, wafers)
    if floor is None or head_bytes is None:
        return None
    return WaferPlan(
        kinds=tuple(kinds[number] for number in range(len(demand.kinds))),
        of_layers=demand.of_layers,
        floor=floor,
        head=head,
        tied=bool(demand.model.tie_word_embeddings),
        head_bytes=head_bytes,
        grid=(device.grid_width, device.grid_height),
        users=demand.users,
    )


def _weight_bytes(regions: Regions, number: int) -> int:
    return regions.layers[number].weight_bytes()


__all__ = ["PlacedKind", "WaferPlan", "Way", "fastest", "place", "plan_wafer"]
