"""A layer's region by the emulator's own clock: of the first few by estimate the fastest one read.

The estimate (`estimate.py`) puts regions in order in no time, and is flat around its minimum: of
Llama 3.1 8B's with 8,192 tokens the first eight are within 1.4 % of each other. The clock of a
layer takes about a second a region, and tells which of them is fastest.

Same sizes and same wafer, same choice: regions are tried in the order of their estimates, those of
equal estimates in the order of `layer_candidates`, and of equal clocks the earlier one is taken.
What was read is known for the rest of the process, and in a file if one is named.
"""

import dataclasses
import pathlib

from kernels.refusal import refuse
from kernels.wse.decode import sizes
from kernels.wse.decode.candidates import layer_candidates
from kernels.wse.decode.demand import Demand
from kernels.wse.decode.layer_plan import LayerStep, refusal
from kernels.wse.decode.mapping import LayerMap
from kernels.wse.decode.pe_bytes import PlacedKind, place_kind
from kernels.wse.decode.search_file import Inputs, Readings, read_file, write_file

MOST = 8  # regions whose clock is read


@dataclasses.dataclass(frozen=True)
class Tried:
    """A region that was tried.

    Attributes:
      rows, groups, parts: of PEs: a region is `rows` high and `groups * parts` wide.
      estimated_cycles: what it was put in order by.
      cycles: what the clock says of the last token's way through it.
    """

    rows: int
    groups: int
    parts: int
    estimated_cycles: float
    cycles: int


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """What a search found.

    Attributes:
      placed: the layer on the fastest region.
      tried: all that were read, in the order of their estimates.
      chosen: which of them is the fastest.
      known: whether another search had read their clocks before.
    """

    placed: PlacedKind
    tried: tuple[Tried, ...]
    chosen: int
    known: bool


_known: dict[str, Readings] = {}


def search_layer(
    demand: Demand, most: int = MOST, path: pathlib.Path | None = None
) -> Found:
    """The region whose clock is least, of the first `most` by estimate that fit.

    Args:
      demand: of one kind of layers.
      most: regions whose clock is read.
      path: a file of what earlier searches read, which is made or added to; None: none. A layer
        with a variant of attention is not in it, as a variant is code.

    Raises:
      CannotLower: a variant's arithmetic that a PE has not, with the user's line.
      DoesNotFit: no region has room.
      LimitExceeded: the file cannot be read or written, or says what the clock does not.
    """
    sizes.within("most", most, 1, sizes.MOST)
    (kind,) = demand.kinds
    ordered = sorted(layer_candidates(demand), key=lambda found: found[1])
    if kind.variant is not None:
        found = _tried(demand, ordered, most)
        if not found:
            raise refusal(demand)
        return _fastest(demand, found, ordered, known=False)
    inputs = inputs_of(demand, most)
    key = repr(inputs)
    readings = _known.get(key)
    if readings is None and path is not None:
        readings = read_file(path).get(key)
    known = readings is not None
    if readings is None:
        found = _tried(demand, ordered, most)
        if not found:
            raise refusal(demand)
        readings = [dataclasses.astuple(each) for each in found]
    result = _fastest(demand, of_readings(readings), ordered, known)
    _known[key] = readings
    if path is not None:
        write_file(path, inputs, readings)
    return result


def of_readings(readings: Readings) -> list[Tried]:
    """What was tried, from what a file holds of it."""
    return [
        Tried(rows, groups, parts, estimated, cycles)
        for rows, groups, parts, estimated, cycles in readings
    ]


def inputs_of(demand: Demand, most: int) -> Inputs:
    """All that a search depends on, as text: sizes, what a layer computes and holds, the wafer."""
    model, device, (kind,) = demand.model, demand.device, demand.kinds
    names = (
        *("hidden_size", "intermediate_size", "num_attention_heads"),
        *("num_key_value_heads", "head_dim", "rms_norm_eps", "qk_norm"),
    )
    found = {name: repr(getattr(model, name)) for name in names}
    numbers = {
        name: repr(getattr(device, name)) for name in sorted(device.sheet.quantities())
    }
    return {
        **found,
        "context": repr(demand.context),
        "dtype": demand.dtype,
        "form": repr(kind.form),
        "held": repr(demand.held),
        "most": repr(most),
        "wafer": device.sheet.name,
        **{f"wafer.{name}": number for name, number in numbers.items()},
    }


Ordered = list[tuple[LayerMap, float]]


def _tried(demand: Demand, ordered: Ordered, most: int) -> list[Tried]:
    """The clocks of the first that fit."""
    (kind,), device = demand.kinds, demand.device
    tried: list[Tried] = []
    for layer, estimated in ordered:
        if len(tried) == most:
            break
        placed = place_kind(kind, layer, device)
        if placed is None:
            continue
        cycles = _clock(demand, placed)
        region = layer.rows, layer.kv_heads, layer.parts
        tried.append(Tried(*region, float(estimated), cycles))
    return tried


def _clock(demand: Demand, placed: PlacedKind) -> int:
    return LayerStep(placed, demand.context - 1).read(demand.device).end_ticks


def _fastest(
    demand: Demand, tried: list[Tried], ordered: Ordered, known: bool
) -> Found:
    """The fastest of them on its region; of what was known its clock is read once more."""
    chosen = min(range(len(tried)), key=lambda place: tried[place].cycles)
    best = tried[chosen]
    (kind,) = demand.kinds
    for layer, _ in ordered:
        if (layer.rows, layer.kv_heads, layer.parts) != (
            best.rows,
            best.groups,
            best.parts,
        ):
            continue
        placed = place_kind(kind, layer, demand.device)
        if placed is not None and (not known or _clock(demand, placed) == best.cycles):
            return Found(placed, tuple(tried), chosen, known)
    refuse(
        f"a search that was known chose {best.rows} x {best.groups} x {best.parts} PEs and "
        f"{best.cycles:,} cycles, which the clock does not say any more; remove its file, so that "
        "regions are read anew"
    )


__all__ = ["Found", "MOST", "Tried", "inputs_of", "search_layer"]
