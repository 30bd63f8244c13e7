"""What is read for `experiments.ring_scaling`: systems, masks with their pairs, points to read."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from emu.trainium.datasheets import (
    TRN1,
    TRN1_32XLARGE,
    TRN2,
    TRN2_48XLARGE,
    TRN2_ULTRASERVER,
    TRN3,
    TRN3_GEN2,
    NeuronCoreSheet,
    System,
    on_system,
    with_cores,
)
from kernels import masks
from kernels.tokens.placement import PLACEMENTS
from kernels.trainium.context.attention import AUTO

# Of one core: its share of 64 heads over 8 KV heads.
HEADS = 8
KV_HEADS = 1
HEAD_DIM = 128
LONGEST = 2**21  # tokens
DOCUMENTS = 16
# Placements that are also read as static programs.
STATIC = (
    "contiguous",
    "zigzag",
    "striped",
)


@dataclasses.dataclass(frozen=True)
class Machine:
    """Chips with all of their cores running, in a system.

    Attributes:
      sheet: of the chip, in its system.
    """

    sheet: NeuronCoreSheet

    @property
    def needs(self) -> Mapping[str, Any]:
        """Options of `ContextAttention` that its cores need."""
        options: dict[str, Any] = {}
        if not self.sheet.transposes_in_input_dtype.value:
            options["turned"] = jnp.float32
        if not self.sheet.scalar_elementwise.value:
            options["scalar_copies"] = 0
        return options

    @property
    def system(self) -> System:
        assert self.sheet.system is not None
        return self.sheet.system

    @property
    def chips(self) -> int:
        return self.system.chips

    @property
    def cores(self) -> int:
        """Of each chip."""
        return self.sheet.cores_per_chip.value


def _all_cores(sheet: NeuronCoreSheet, system: System) -> Machine:
    chip = with_cores(sheet, sheet.cores_per_chip.value)
    return Machine(on_system(chip, system))


MACHINES = {
    "Trn3 Gen2": _all_cores(TRN3, TRN3_GEN2),
    "Trn2 torus": _all_cores(TRN2, TRN2_48XLARGE),
    "Trn2 Ultra": _all_cores(TRN2, TRN2_ULTRASERVER),
    "Trn1": _all_cores(TRN1, TRN1_32XLARGE),
}
BY_SYSTEM = {machine.system.name: name for name, machine in MACHINES.items()}


# --- masks ---


@dataclasses.dataclass(frozen=True)
class Pattern:
    """A mask for a length, and how many pairs it allows.

    Attributes:
      mask: of positions.
      pairs: of a query and a key that it may attend to.
    """

    mask: masks.Mask
    pairs: int


def _triangle(n: int) -> int:
    return n * (n + 1) // 2


def _chunks(tokens: int, size: int) -> list[int]:
    whole, rest = divmod(tokens, size)
    return [size] * whole + [rest] * (rest > 0)


def _causal(tokens: int, share: int) -> Pattern:
    return Pattern(masks.causal, _triangle(tokens))


def _window(tokens: int, share: int) -> Pattern:
    # Of 6 tokens with a window of 2: 21 pairs less the triangle of the 4 tokens that lie beyond it,
    # 10, leaves 11 = 1 + 5 · 2.
    return Pattern(
        masks.window(share), _triangle(tokens) - _triangle(max(0, tokens - share))
    )


def _sinks(tokens: int, share: int) -> Pattern:
    """The queries that see n sinks besides their window are those at least `share + n` along."""
    # Of 12 tokens, window 2: 10 queries see the first sink besides, 9 the second, 8 and 7 the
    # others, 34 pairs more than the window's 23.
    seen = sum(max(0, tokens - share - n) for n in range(4))
    return Pattern(masks.sinks(4, share), _window(tokens, share).pairs + seen)


def _chunked(tokens: int, share: int) -> Pattern:
    size = 4 * share
    return Pattern(masks.chunked(size), sum(map(_triangle, _chunks(tokens, size))))


def _documents(tokens: int, share: int) -> Pattern:
    lengths = document_lengths(tokens)
    return Pattern(masks.documents(lengths), sum(map(_triangle, lengths)))


def _block_causal(tokens: int, share: int) -> Pattern:
    size = max(1, share // 2)
    blocks = _chunks(tokens, size)
    ends = np.cumsum(blocks)
    # A block's queries see all up to its end: of 6 tokens in blocks of 2, 2 · 2 + 2 · 4 + 2 · 6.
    pairs = sum(int(block * end) for block, end in zip(blocks, ends, strict=True))
    return Pattern(masks.block_causal(size), pairs)


def _full(tokens: int, share: int) -> Pattern:
    return Pattern(masks.full, tokens**2)


def document_lengths(tokens: int) -> list[int]:
    """Packed documents that fill a sequence, long and short, the same at every call."""
    count = min(DOCUMENTS, tokens)
    # Lengths of documents are spread over orders of magnitude: of 2,048 tokens 11 to 435.
    weights = np.random.default_rng(0).lognormal(size=count)
    # Two ends that round to one token would be a document without any.
    ends = np.unique(np.round(np.cumsum(weights) / weights.sum() * tokens).astype(int))
    return [int(length) for length in np.diff(ends, prepend=0) if length]


PATTERNS: dict[str, Callable[[int, int], Pattern]] = {
    "causal": _causal,
    "window": _window,
    "sinks + window": _sinks,
    "chunked": _chunked,
    "documents": _documents,
    "block-causal": _block_causal,
    "full": _full,
}


# --- points ---


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """One program to read.

    Attributes:
      machine: of `MACHINES`.
      mask: of `PATTERNS`.
      share: tokens per rank, of which the mask's own sizes are multiples.
      ranks: chips.
      placement: of tokens, or `auto`.
      static: one program for all ranks, which cannot skip tiles by rank.
      cores: NeuronCores of a chip in the mesh; each has `heads` and `kv_heads` of its own.
      heads, kv_heads: of one core.
      scheme, inner, queries: see `ContextAttention`.
      bands: whether the shortest and the longest time are read too.
    """

    machine: str = "Trn3 Gen2"
    mask: str = "causal"
    share: int = 1024
    ranks: int = 16
    placement: str = AUTO
    static: bool = False
    cores: int = 1
    heads: int = HEADS
    kv_heads: int = KV_HEADS
    scheme: str = "ring"
    inner: int = 1
    queries: int | None = None
    bands: bool = False

    @property
    def tokens(self) -> int:
        return self.share * self.ranks

    @property
    def pattern(self) -> Pattern:
        return PATTERNS[self.mask](self.tokens, self.share)


def on(machine: str | None, points: Iterable[Point]) -> list[Point]:
    """The points that a machine has chips for, on it; None leaves each on its own.

    Those of other machines are the same sizes again, and left out.
    """
    if machine is None:
        return list(points)
    own = [point for point in points if point.machine == Point.machine]
    chips, cores = MACHINES[machine].chips, MACHINES[machine].cores
    moved = [
        dataclasses.replace(
            point,
            machine=machine,
            # A ring over all chips is over all that this machine has, and so with cores.
            ranks=min(point.ranks, chips),
            cores=min(point.cores, cores),
        )
        for point in own
    ]
    return list(dict.fromkeys(moved))


QUICK_TOKENS, QUICK_RANKS = 512, 4
QUICK_MASKS = ("causal", "window", "documents")
LEFT_OUT = (
    f"all but {', '.join(QUICK_MASKS)}; static programs and all cores of a chip in one mesh; more "
    f"than {QUICK_RANKS} chips and {QUICK_TOKENS} tokens each; other machines; all thresholds and "
    "groups of schemes but the first"
)


def quick(points: Iterable[Point]) -> list[Point]:
    """The few of a sweep that show what placements do to the more telling masks."""
    plain = [point for point in points if not point.static and point.cores == 1]
    return [point for point in plain if point.mask in QUICK_MASKS]


def sweep(share: int, most: int, *, whole: bool) -> list[Point]:
    """Placements, masks, ranks and systems, on at most `most` ranks; all of them if `whole`."""
    middle = min(16 if whole else 8, most)
    points = [*_placements(share, middle, whole), *_ranks(share, middle, whole)]
    points.append(Point(share=share, ranks=144 if whole else middle, cores=8))
    if whole:
        points += [
            Point(mask=mask, ranks=144, share=LONGEST // 144)
            for mask in ("window", "causal")
        ]
    return list(dict.fromkeys(point for point in points if point.ranks <= most))


def _placements(share: int, ranks: int, whole: bool) -> list[Point]:
    """Every mask, the more telling ones on every placement; causal also as a static program."""
    at = functools.partial(Point, share=share, ranks=ranks)
    telling = PATTERNS if whole else ("causal", "window", "documents")
    names = PLACEMENTS if whole else STATIC
    points = [
        at(mask=mask, placement=placement)
        for mask in PATTERNS
        for placement in (names if mask in telling else (AUTO,))
    ]
    return [*points, *(at(placement=name, static=True) for name in STATIC)]


def _ranks(share: int, middle: int, whole: bool) -> list[Point]:
    """The same tokens on each of more and more ranks, then the other machines, whole."""
    at = functools.partial(Point, share=share)
    few = ("causal", "window")
    rings = (1, 4, 64, 144) if whole else (1, 144)
    points = [
        at(mask=mask, ranks=ranks, bands=ranks == 1)
        for mask in (PATTERNS if whole else few)
        for ranks in rings
        if ranks != middle
    ]
    others = [name for name in MACHINES if name != Point.machine]
    return points + [
        at(mask=mask, machine=name, ranks=MACHINES[name].chips)
        for name in others
        for mask in (few if whole else few[:1])
    ]


def schemes(share: int, most: int, *, whole: bool) -> list[list[Point]]:
    """Groups of points that differ in their scheme only."""
    ranks = min(8, most)
    inner = next(divisor for divisor in (4, 2, 1) if ranks % divisor == 0)
    few, many = max(1, share // 4), 4 * share
    at = functools.partial(Point, ranks=ranks)
    groups = [
        _schemes(at(share=share), inner),
        _schemes(at(share=share, kv_heads=HEADS), inner),
        _schemes(at(share=many, queries=few), inner),
    ]
    if whole:
        groups += [
            _schemes(at(share=share // 4), inner),
            _schemes(at(share=many), inner),
            _schemes(at(share=many, queries=few, kv_heads=HEADS), inner),
            _schemes(at(share=share, mask="window"), inner),
            _schemes(at(share=share, ranks=64), 16),
        ]
    return [group for group in groups if group[0].ranks <= most]


def _schemes(point: Point, inner: int) -> list[Point]:
    """A point under every scheme that takes its heads and queries."""
    as_ = functools.partial(dataclasses.replace, point)
    found = [
        as_(scheme="ring"),
        as_(scheme="all-gather"),
        as_(scheme="tiles", inner=inner),
    ]
    # Ulysses gives every rank whole KV heads: 8 of them divide over 8 ranks, one does not. Within a
    # ring they need to divide over the inner ranks only.
    if point.queries is None and point.kv_heads % point.ranks == 0:
        found.append(as_(scheme="ulysses"))
    if (
        point.queries is None
        and inner > 1
        and point.kv_heads % inner == 0
        and inner < point.ranks
    ):
        found.append(as_(scheme="ulysses-ring", inner=inner))
    return [*found, as_(scheme="pass-q")]
