"""A mixture on a mesh: run on numbers with the counts that these have, or timed on any counts."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from emu.annotations import DType
from emu.clock.reading import Reading
from emu.datasheet import Device
from emu.program import Program
from emu.trainium.spaces import Hbm
from kernels.moe.mesh import weights as moe_weights
from kernels.moe.mesh.form import MixtureOfExperts, MoeForm
from kernels.moe.mesh.mixture import Mixed, MoeWeights, mixture
from kernels.moe.mesh.places import TABLE_SPECS, Order, assign, export, order, tokens_of
from kernels.moe.mesh.router import RouterWeights
from kernels.moe.mesh.weights import PlainMoe, packed
from kernels.moe.mesh.work import MoeWork, checked, sized, work
from kernels.refusal import refuse
from kernels.trainium.gemm.mx_pack import MxFormats
from kernels.trainium.tiles import PARTITIONS, split

CHIP, CORE = "chip", "core"  # mesh axes


class Ran(NamedTuple):
    """What a run gives.

    Attributes:
      rows: `[chips, tokens, hidden]`.
      counts: int `[chips, experts]`: how many of each chip's tokens chose each expert.
    """

    rows: np.ndarray
    counts: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class MoeMesh:
    """One mixture's layer on chips and cores.

    Attributes:
      mixture: what is computed.
      chips, cores: of the mesh.
      tokens: of each chip; at most 128 are a tile, and all tiles must be full.
      dtype: of tokens and weights.
      capacity: rows that an expert takes of each chip at most; None: all.
      real: bool `[chips, tokens]`, which are tokens and not padding; None: all.
      tile_rows, tiles_at_once, mx, others_mx: see `MoeForm`.
    """

    mixture: MixtureOfExperts
    chips: int
    cores: int
    tokens: int
    dtype: DType
    capacity: int | None = None
    real: np.ndarray | None = None
    tile_rows: int = PARTITIONS
    tiles_at_once: int = 4
    mx: MxFormats | None = None
    others_mx: MxFormats | None = None

    def __post_init__(self) -> None:
        tiles, rows = self._tiles
        if tiles * rows != self.tokens:
            refuse(
                f"{self.tokens} tokens of a chip in {tiles} tiles: must be equally many in each, "
                f"such as {tiles * rows}"
            )
        wanted = self.chips, self.tokens
        if self.real is not None and self.real.shape != wanted:
            refuse(f"real is {list(self.real.shape)}, must be {list(wanted)}")

    # --- on numbers ---

    def run(self, x: np.ndarray, plain: PlainMoe, counts: Any = None) -> Ran:
        """Runs the mixture.

        Args:
          x: normalised hidden states, `[chips, tokens, hidden]`.
          plain: weights.
          counts: int `[chips, experts]` that the run is to have; None: the router is run first to
            find them.

        Raises:
          LimitExceeded: other counts than those of the run.
        """
        laid = self._laid(x)
        if counts is None:
            counts = self.counts(x, plain)
        form = self.form(counts)
        program = _program(form)
        given = work(form, checked_for(self, counts))
        tables = order(form, self.real)
        mixed: Mixed = program.run(laid, packed(plain, form), tables, given)
        found = np.asarray(mixed.counts)[:, 0, 0]
        same_counts(np.asarray(counts), found)
        # Every core of a chip has the sum.
        rows = np.asarray(mixed.rows)[:, 0]
        flat = rows.reshape(self.chips, self.tokens, -1)
        return Ran(flat[..., : self.mixture.hidden], found)

    def counts(self, x: np.ndarray, plain: PlainMoe) -> np.ndarray:
        """How many of each chip's tokens choose each expert, by the router alone."""
        form = self._smallest
        router = packed(plain, form).router
        tables = order(form, self.real)
        found = _router_program(form).run(self._laid(x), router, tables)
        return np.asarray(found)[:, 0].astype(np.int64)

    # --- on the clock ---

    def read(self, device: Device, counts: Any, **options: Any) -> Reading:
        """The clock for counts, int `[chips, experts]`.

        Raises:
          LimitExceeded: counts that no run could have.
        """
        form = self.form(counts)
        shape = self.chips, form.tiles, form.rows, form.hidden_padded
        x = jax.ShapeDtypeStruct(shape, self.dtype)
        tables = jax.tree.map(_shape, order(form, self.real))
        given = work(form, checked_for(self, counts))
        weights = moe_weights.abstract(form)
        return _program(form).read(device, x, weights, tables, given, **options)

    # --- what both need ---

    def form(self, counts: Any) -> MoeForm:
        """The form with room for counts."""
        return self._sized(checked_for(self, counts))

    def _sized(self, counts: np.ndarray) -> MoeForm:
        tiles, rows = self._tiles
        return sized(
            self.mixture,
            counts,
            cores=self.cores,
            tiles=tiles,
            rows=rows,
            dtype=jnp.dtype(self.dtype),
            capacity=self.capacity,
            padded=self.real is not None,
            tile_rows=self.tile_rows,
            tiles_at_once=self.tiles_at_once,
            mx=self.mx,
            others_mx=self.others_mx,
        )

    @property
    def _tiles(self) -> tuple[int, int]:
        return split(self.tokens, PARTITIONS)

    @functools.cached_property
    def _smallest(self) -> MoeForm:
        return self._sized(np.zeros((self.chips, self.mixture.routing.experts), int))

    def _laid(self, x: np.ndarray) -> np.ndarray:
        """`[chips, tokens, hidden]` as a kernel takes it."""
        form = self._smallest
        wanted = self.chips, self.tokens, self.mixture.hidden
        if x.shape != wanted:
            refuse(f"hidden states are {list(x.shape)}, must be {list(wanted)}")
        padding = form.hidden_padded - self.mixture.hidden
        wide = np.pad(np.asarray(x), [(0, 0), (0, 0), (0, padding)])
        return wide.reshape(self.chips, form.tiles, form.rows, -1)


def checked_for(mesh: MoeMesh, counts: Any) -> np.ndarray:
    """Counts as a mesh takes them; see `work.checked`."""
    routing = mesh.mixture.routing
    tokens = mesh.tokens if mesh.real is None else mesh.real.sum(-1)
    return checked(counts, routing, chips=mesh.chips, tokens=tokens)


def same_counts(expected: np.ndarray, found: np.ndarray) -> None:
    """Raises `LimitExceeded` unless a run had the counts that it was given.

    Args:
      expected: int `[chips, experts]`, by which its loops and transfers went.
      found: likewise, as it counted.
    """
    differs = np.argwhere(expected != found)
    if not len(differs):
        return
    chip, expert = differs[0]
    refuse(
        f"{len(differs)} counts are not those of the data: expert {expert} was said to be chosen "
        f"by {expected[chip, expert]} tokens of chip {chip}, and {found[chip, expert]} chose it; "
        "give the counts that the router finds, or none"
    )


def _shape(x: np.ndarray) -> Any:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


@functools.lru_cache(maxsize=32)
def _program(form: MoeForm) -> Program:
    def kernel(h: Hbm, weights: MoeWeights, tables: Order, known: MoeWork) -> Mixed:
        return mixture(h, weights, tables, known, form, chip_axis=CHIP, core_axis=CORE)

    each = (CHIP, CORE)
    specs = ((CHIP,), moe_weights.SPECS, TABLE_SPECS, each)
    return Program(kernel, {CHIP: form.chips, CORE: form.cores}, specs)


@functools.lru_cache(maxsize=32)
def _router_program(form: MoeForm) -> Program:
    def kernel(h: Hbm, router: RouterWeights, tables: Order) -> Hbm:
        _, counted = assign(h, router, tokens_of(tables), form)
        return export(counted)

    specs = (CHIP,), (), TABLE_SPECS._replace(own=())
    return Program(kernel, {CHIP: form.chips}, specs)


__all__ = ["CHIP", "CORE", "MoeMesh", "Ran", "same_counts"]
