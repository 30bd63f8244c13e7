"""A model's mixtures of experts in prefill: their form for given counts, and the known integers.

Experts are dealt over all cores, so that tokens go to the chips of the experts that they choose.
How many go where is known by counts, `[layers, chips, experts]` of the layers that have experts: a
run on numbers finds them, and the clock takes them from it, or totals `[layers, experts]`, or none,
in which case every expert is chosen equally often.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from emu.annotations import DType
from kernels.moe.mesh.form import MixtureOfExperts, MoeForm
from kernels.moe.mesh.places import Order, order
from kernels.moe.mesh.program import same_counts
from kernels.moe.mesh.work import MoeWork, checked, sized, work
from kernels.trainium.gemm.mx_pack import MxFormats
from kernels.trainium.layer.gate import GATES
from kernels.trainium.layer.tiling import LayerTiling
from models.config import ModelConfig
from models.errors import ModelError


class Mixtures(NamedTuple):
    """What the kernel is given of a model's mixtures.

    Attributes:
      tables: see `kernels.moe.mesh.places.Order`.
      works: of each run, with a leading dimension of its layers; None: of layers with an MLP.
    """

    tables: Order
    works: tuple[MoeWork | None, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class PrefillExperts:
    """The mixtures of one model, all of one form, on one mesh.

    Attributes:
      mixture: what each computes.
      layers: of each of the model's runs, how many layers have one: all or none.
      real: bool `[chips, slots]`, which slots hold tokens and not padding.
      cores: of each chip.
      tiles, rows: the slots of a chip, `tiles · rows`.
      dtype: of activations and weights.
      mx: what experts' products have their operands in, where they are in MX.
      others_mx: likewise all other products'.
    """

    mixture: MixtureOfExperts
    layers: tuple[int, ...]
    real: np.ndarray
    cores: int
    tiles: int
    rows: int
    dtype: DType
    mx: MxFormats | None = None
    others_mx: MxFormats | None = None

    # --- counts ---

    @property
    def held(self) -> np.ndarray:
        """Tokens of each chip, int `[chips]`."""
        return self.real.sum(-1)

    def counts(self, given: Any = None) -> np.ndarray:
        """Counts `[layers, chips, experts]` as a form takes them.

        Args:
          given: such counts; totals `[layers, experts]`; or None: every expert equally often.

        Raises:
          ModelError: another number of layers, or totals that no prompt could have.
          LimitExceeded: counts that no prompt could have.
        """
        layers, routing = sum(self.layers), self.mixture.routing
        if given is None:
            picks = int(self.held.sum()) * routing.chosen
            even, rest = divmod(picks, routing.experts)
            totals = even + (np.arange(routing.experts) < rest)
            given = np.broadcast_to(totals, (layers, routing.experts))
        found = np.asarray(given)
        if not found.ndim or len(found) != layers:
            raise ModelError(
                f"counts are {list(found.shape)}, must be of the {layers} layers that have experts"
            )
        if found.ndim == 2:
            found = np.stack([self._spread(totals) for totals in found])
        chips = len(self.real)
        return checked(found, routing, chips=chips, tokens=self.held)

    def _spread(self, totals: np.ndarray) -> np.ndarray:
        """Totals `[experts]` as counts of each chip, each with its share of every expert's tokens.

        In a list of all that is chosen, expert behind expert, chips take turns as evenly as they
        can: 3 tokens of chip 0 and 1 of chip 1, two experts each, are 0 0 1 0 0 0 1 0. With totals
        4, 2 and 2 chip 0 sends 3, 2 and 1, chip 1 sends 1, 0 and 1.
        """
        routing, held = self.mixture.routing, self.held
        tokens = int(held.sum())
        wanted = tokens * routing.chosen
        if (
            totals.dtype.kind not in "iu"
            or totals.shape != (routing.experts,)
            or totals.sum() != wanted
            or (totals < 0).any()
            or (totals > tokens).any()
        ):
            raise ModelError(
                f"totals of a layer are {totals.dtype}{list(totals.shape)}, {totals.min()} to "
                f"{totals.max()}, {totals.sum()} together; must be integers of {routing.experts} "
                f"experts, 0 to {tokens}, together {tokens} tokens · {routing.chosen} chosen = "
                f"{wanted}"
            )
        # Turns repeat after as many as there are tokens, so that of an expert's, which are no more,
        # no chip has more than it has tokens.
        due = np.concatenate([(np.arange(own) + 0.5) / own for own in held if own])
        chips = np.repeat(np.arange(len(held)), held)
        turns = np.tile(chips[np.argsort(due, kind="stable")], routing.chosen)
        experts = np.repeat(np.arange(routing.experts), totals)
        counts = np.zeros((len(held), routing.experts), np.int64)
        np.add.at(counts, (turns, experts), 1)
        return counts

    def same(self, expected: np.ndarray, found: np.ndarray) -> None:
        """Raises LimitExceeded unless a run had the counts that it was given."""
        for of_layer, counted in zip(expected, found, strict=True):
            same_counts(of_layer, counted)

    # --- forms ---

    @property
    def padded(self) -> bool:
        """Whether some slots hold padding."""
        return not self.real.all()

    def form(self, counts: np.ndarray) -> MoeForm:
        """With room for counts `[layers, chips, experts]`."""
        return self._sized(counts, None)

    @functools.cached_property
    def open(self) -> MoeForm:
        """With room for whatever tokens choose, which a run that is to find counts takes.

        Each expert has a place for every token of a chip, and all are computed and sent, filled or
        not: what is known does not depend on what is chosen.
        """
        return self._sized(self._none, int(self.held.max()))

    @functools.cached_property
    def smallest(self) -> MoeForm:
        """Without room: who has which expert, and sizes of weights."""
        return self._sized(self._none, None)

    @property
    def _none(self) -> np.ndarray:
        shape = sum(self.layers), len(self.real), self.mixture.routing.experts
        return np.zeros(shape, np.int64)

    def _sized(self, counts: np.ndarray, capacity: int | None) -> MoeForm:
        form = sized(
            self.mixture,
            counts,
            cores=self.cores,
            tiles=self.tiles,
            rows=self.rows,
            dtype=self.dtype,
            capacity=capacity,
            padded=self.padded,
            mx=self.mx,
            others_mx=self.others_mx,
        )
        # No block of tiles is larger than what there is.
        most = max(form.expert_rows // form.tile_rows, form.tiles)
        return dataclasses.replace(form, tiles_at_once=min(form.tiles_at_once, most))

    # --- arguments ---

    def given(self, form: MoeForm, counts: np.ndarray | None) -> Mixtures:
        """What the kernel of a form is given; counts None: of the form `open`."""
        counts = self._none if counts is None else counts
        works, first = [], 0
        for layers in self.layers:
            of_run = counts[first : first + layers]
            works.append(work(form, of_run) if layers else None)
            first += layers
        return Mixtures(order(form, self.real if self.padded else None), tuple(works))


def experts_of(
    config: ModelConfig,
    tiling: LayerTiling,
    cores: int,
    real: np.ndarray,
    mx: MxFormats | None = None,
    others_mx: MxFormats | None = None,
) -> PrefillExperts | None:
    """A model's mixtures; None where it has none.

    Args:
      config: of the model.
      tiling: of one core.
      cores: of each chip.
      real: bool `[chips, slots]`, which slots hold tokens.
      mx, others_mx: see `PrefillExperts`.
    """
    having = [form for form in config.forms if form.experts is not None]
    if not having:
        return None
    experts = having[0].experts
    assert experts is not None
    mixture = MixtureOfExperts(
        experts.routing,
        config.hidden_size,
        experts.width,
        GATES[having[0].activation],
        router_bias=experts.is_biased,
        biases=experts.is_biased,
        shared=experts.shared_width,
    )
    layers = tuple(
        len(run) if config.forms[run.start].experts else 0 for run in config.runs
    )
    tiles = tiling.blocks * tiling.tiles
    return PrefillExperts(
        mixture,
        layers,
        real,
        cores,
        tiles,
        tiling.rows,
        tiling.dtype,
        mx,
        others_mx,
    )


def mixture_structs(mixtures: Mixtures) -> Mixtures:
    """Tables as shapes and dtypes; what is known stays."""
    tables = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), mixtures.tables
    )
    return mixtures._replace(tables=tables)


__all__ = ["Mixtures", "PrefillExperts", "experts_of", "mixture_structs"]
