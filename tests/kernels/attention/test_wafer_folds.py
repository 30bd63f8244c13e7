"""Monoids' decode on the wafer: values against float64 NumPy, laws of their clock."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from emu import lower
from emu.lower import CannotLower
from emu.wse import WSE3
from kernels import masks
from kernels.attention.decode import decode, decode_time
from kernels.attention.decode_plan import DecodePlan, plan_on
from kernels.attention.on_pe import DecodeSizes, variant_on_pe
from kernels.attention.reading import read
from kernels.scores.fold import WEIGHT_INPUTS, Fold, Sum, finish_inputs
from kernels.scores.form import SCORE_INPUTS, Reading

BATCH, HEADS, KV_HEADS, DIM, VALUE_DIM, KEYS = 2, 4, 2, 8, 6, 45
ROWS, PARTS = 5, 2
SIZES = DecodeSizes(
    batch=BATCH,
    heads=HEADS,
    kv_heads=KV_HEADS,
    head_dim=DIM,
    value_dim=VALUE_DIM,
    context=KEYS,
)
RNG = np.random.default_rng(0)
Q = 2 * RNG.standard_normal((BATCH, HEADS, 1, DIM)).astype(np.float32)
K = RNG.standard_normal((BATCH, KV_HEADS, KEYS, DIM)).astype(np.float32)
V = RNG.standard_normal((BATCH, KV_HEADS, KEYS, VALUE_DIM)).astype(np.float32)
SINK = RNG.standard_normal(HEADS).astype(np.float32)
GATE = RNG.random((BATCH, HEADS, KEYS, VALUE_DIM)).astype(np.float32)
SCALE = RNG.uniform(0.5, 2, (BATCH, HEADS, KEYS)).astype(np.float32)

Function = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """A monoid as functions that NumPy and JAX both take: the last argument is the library.

    Attributes:
      finish: of values, the greatest if there is one, sums, b, h, q, d.
      sums: factors of the weights, of s, b, h, q, k; None: 1.
      values: the factor in the sum of values.
      greatest: whether there is one.
      exponent: of s, b, h, q, k; None: s.
      weight: of own and greatest; None: exp(own - greatest).
    """

    finish: Function
    sums: tuple[Function | None, ...] = (None,)
    values: Function | None = None
    greatest: bool = True
    exponent: Function | None = None
    weight: Function | None = None

    @property
    def fold(self) -> Fold:
        """As machines take it."""

        def of_score(function: Function | None) -> Any:
            if function is None:
                return None
            return lower.read(
                lambda *arguments: function(*arguments, jnp), SCORE_INPUTS, "mine"
            )

        weight = self.weight or (lambda own, top, np: np.exp(own - top))
        sums = tuple(f"l{place}" for place in range(len(self.sums)))
        components = ("o", "m", *sums) if self.greatest else ("o", *sums)
        return Fold(
            name="mine",
            greatest="m" if self.greatest else None,
            exponent=of_score(self.exponent),
            weight=lower.read(
                lambda own, top: weight(own, top, jnp), WEIGHT_INPUTS, "weight of mine"
            )
            if self.greatest
            else None,
            sums=tuple(
                Sum(name, of_score(factor))
                for name, factor in zip(sums, self.sums, strict=True)
            ),
            values=Sum("o", of_score(self.values)),
            finish=lower.read(
                lambda *arguments: self.finish(*arguments, jnp),
                finish_inputs(components),
                "finish of mine",
            ),
        )

    def dense(
        self, score: Function | None = None, mask: Function | None = None
    ) -> np.ndarray:
        """float64 attention of the newest query."""
        group = HEADS // KV_HEADS
        keys, values = (np.repeat(x, group, 1).astype(np.float64) for x in (K, V))
        s = np.einsum("bhqd,bhkd->bhqk", Q.astype(np.float64), keys) / np.sqrt(DIM)
        b = np.arange(BATCH)[:, None, None, None]
        h = np.arange(HEADS)[None, :, None, None]
        q, k, d = np.array(KEYS - 1), np.arange(KEYS), np.arange(VALUE_DIM)
        if score is not None:
            s = score(s, b, h, q, k)
        allowed = np.ones(s.shape, bool)
        if mask is not None:
            allowed = np.broadcast_to(mask(b, h, q, k), s.shape)

        def factor(function: Function | None) -> Any:
            return 1.0 if function is None else function(s, b, h, q, k, np)

        weights = np.where(allowed, 1.0, 0.0)
        top = []
        if self.greatest:
            own = s if self.exponent is None else self.exponent(s, b, h, q, k, np)
            own = np.where(allowed, own, -np.inf)
            greatest = np.maximum(own.max(-1, keepdims=True), -1e38)
            weight = self.weight or (lambda own, top, np: np.exp(own - top))
            weights = np.where(allowed, weight(own, greatest, np), 0)
            top = [greatest]
        sums = [(weights * factor(x)).sum(-1, keepdims=True) for x in self.sums]
        mixed = np.einsum("bhqk,bhkd->bhqd", weights * factor(self.values), values)
        with np.errstate(all="ignore"):
            out = self.finish(mixed, *top, *sums, b, h, q, d, np)
        return np.where(allowed.any(-1, keepdims=True) | (not self.greatest), out, 0)


def by_scale(s: Any, b: Any, h: Any, q: Any, k: Any, np: Any) -> Any:
    return np.asarray(SCALE)[b, h, k]


def sigmoid(s: Any, b: Any, h: Any, q: Any, k: Any, np: Any) -> Any:
    return 1 / (1 + np.exp(-(s - 1)))


CASES: dict[str, Case] = {
    "softmax": Case(lambda o, m, z, b, h, q, d, np: o / z),
    "off by one": Case(lambda o, m, z, b, h, q, d, np: o / (z + np.exp(-m))),
    "sink": Case(
        lambda o, m, z, b, h, q, d, np: o / (z + np.exp(np.asarray(SINK)[h] - m))
    ),
    "gate": Case(lambda o, m, z, b, h, q, d, np: o / z * np.asarray(GATE)[b, h, q, d]),
    "feature": Case(lambda o, m, z, b, h, q, d, np: o / z + 2.0 * d),
    "scaled values": Case(lambda o, m, z, b, h, q, d, np: o / z, values=by_scale),
    "other base": Case(
        lambda o, m, z, b, h, q, d, np: o / z,
        weight=lambda own, top, np: np.exp2(own - top),
    ),
    "squared": Case(
        lambda o, m, z, b, h, q, d, np: o / z,
        exponent=lambda s, b, h, q, k, np: -s * s,
    ),
    "several sums": Case(
        lambda o, m, z, e, n, b, h, q, d, np: o / z + np.log(z) - e / z + n / (n + m),
        sums=(None, lambda s, b, h, q, k, np: s, by_scale),
    ),
    "sigmoid": Case(
        lambda o, b, h, q, d, np: o,
        sums=(),
        values=sigmoid,
        greatest=False,
    ),
    "relu": Case(
        lambda o, n, b, h, q, d, np: o / (n + 1),
        sums=(None,),
        values=lambda s, b, h, q, k, np: np.maximum(s, 0.0),
        greatest=False,
    ),
}


def nothing_for_one(b: Any, h: Any, q: Any, k: Any) -> Any:
    return (h != 2) & ((k % 3 == b) | (k > q - 7))


MASKS: dict[str, Function | None] = {
    "all": None,
    "nothing for one": nothing_for_one,
    "sinks": masks.sinks(3, 4),
    "by batch": lambda b, h, q, k: q - k < 9 * (b + 1),
}


def reading(case: Case, mask: Function | None = None, score: Any = None) -> Reading:
    """The variant of a monoid."""
    return dataclasses.replace(read("mine", score, mask), fold=case.fold)


@pytest.mark.parametrize("name", CASES)
def test_values(name: str) -> None:
    case = CASES[name]
    # Every monoid under one mask with gaps, and in turn under one of the others.
    others = [x for x in MASKS if x != "nothing for one"]
    other = others[list(CASES).index(name) % len(others)]
    for kind in ("nothing for one", other):
        mask = MASKS[kind]
        out, lse = decode(reading(case, mask), Q, (K, V), rows=ROWS, parts=PARTS)
        expected = case.dense(mask=mask)
        error = np.abs(out - expected).max()
        assert error <= 2e-6 * max(1, np.abs(expected).max()), kind
        of_scores = case.greatest and case.weight is case.exponent is None
        has_sum = of_scores and case.sums == (None,)
        assert (lse is not None) == has_sum


@pytest.mark.parametrize("name", ["sink", "scaled values", "sigmoid"])
def test_a_score_of_its_own(name: str) -> None:
    def score(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
        return 0.5 * s - 0.1 * (q - k)

    case = CASES[name]
    out, _ = decode(reading(case, None, score), Q, (K, V), rows=ROWS, parts=PARTS)
    expected = case.dense(score)
    assert np.abs(out - expected).max() <= 2e-6 * max(1, np.abs(expected).max())


def test_a_column_that_has_no_slots() -> None:
    # One slot in each of 45 rows, which is the first column's.
    for name in ("scaled values", "sigmoid"):
        out, _ = decode(reading(CASES[name]), Q, (K, V), rows=45, parts=PARTS)
        expected = CASES[name].dense()
        assert np.abs(out - expected).max() <= 2e-6 * max(1, np.abs(expected).max())


def test_what_nobody_reads_is_not_summed() -> None:
    two = Case(lambda o, m, z, e, b, h, q, d, np: o / z, sums=(by_scale, None))
    one = dataclasses.replace(two, finish=lambda o, m, z, b, h, q, d, np: o / z)
    one = dataclasses.replace(one, sums=(by_scale,))
    assert cycles(two) == cycles(one)
    nothing = Case(lambda o, m, z, b, h, q, d, np: z + m)
    with pytest.raises(CannotLower, match="finish of mine: reads l0, m of what"):
        cycles(nothing)


def test_bfloat16_is_near() -> None:
    cache = jnp.asarray(K, jnp.bfloat16), jnp.asarray(V, jnp.bfloat16)
    for name in ("sink", "scaled values", "sigmoid"):
        out, _ = decode(reading(CASES[name]), Q, cache, rows=ROWS, parts=PARTS)
        expected = CASES[name].dense()
        error = np.abs(np.asarray(out, np.float64) - expected).max()
        assert 1e-4 < error < 0.02 * np.abs(expected).max()


# --- the clock ---


def plan(case: Case | None, mask: Function | None = None) -> DecodePlan:
    variant = read("mine", None, mask) if case is None else reading(case, mask)
    return plan_on(variant_on_pe(variant, SIZES), ROWS, PARTS, WSE3.at())


def cycles(case: Case | None, mask: Function | None = None) -> int:
    return plan(case, mask).read().end_ticks


def test_softmax_in_disguise_costs_what_softmax_does() -> None:
    assert cycles(CASES["softmax"]) == cycles(None)
    out, lse = plan(CASES["softmax"]).run(Q, K, V)
    plain, of_plain = plan(None).run(Q, K, V)
    assert (out == plain).all() and lse is not None and (lse == of_plain).all()


def test_a_last_step_costs_its_instructions() -> None:
    # One loop over the queries: -m, its exponential, a sum and a division; then a vector operation
    # on 2 rows of 3 features. Softmax divides without a loop and multiplies row by row.
    queries, features = HEADS // KV_HEADS, VALUE_DIM // PARTS
    loop = queries * (10 + 2 + 60 + 2 + 50)
    operation = 3 * 4 + 6 + queries * features
    # The greatest of the scores, which are scaled as they are raised, by a number put there.
    scaled = (4 + 6 + 1) + queries * 2
    own = queries * 50 + queries * (3 * 4 + 6 + features)
    added = loop + operation + scaled - own
    assert cycles(CASES["off by one"]) - cycles(None) == added


def test_more_arithmetic_is_never_faster() -> None:
    times = [cycles(CASES[x]) for x in ("softmax", "off by one", "sink")]
    assert times == sorted(times)
    assert cycles(CASES["gate"]) > times[0]
    assert cycles(CASES["several sums"]) > cycles(CASES["scaled values"])
    assert cycles(CASES["scaled values"]) > times[0]
    # Without a search for the greatest, but with an exponential and a division for each score.
    assert cycles(CASES["relu"]) < times[0]
    for case in (CASES["sink"], CASES["sigmoid"]):
        near, far = (cycles(case, masks.window(size)) for size in (7, 40))
        assert near < far


def test_a_gate_lies_where_its_features_are() -> None:
    tables = plan(CASES["gate"]).tables
    (shape,) = [x.shape for x in tables.structs().values() if x.shape[1:] == (2, 3)]
    # Of 4 query heads on 2 columns each, 2 heads and 3 features.
    assert shape == (BATCH * KV_HEADS * PARTS, 2, 3)
    assert plan(CASES["gate"]).sram_bytes(WSE3.at()) > plan(None).sram_bytes(WSE3.at())


def test_time_of_a_long_context() -> None:
    sizes = DecodeSizes(
        heads=32, kv_heads=8, head_dim=128, context=131_072, dtype="bfloat16"
    )
    sink = dataclasses.replace(
        CASES["sink"],
        finish=lambda o, m, z, b, h, q, d, np: o / (z + np.exp(h - m)),
    )
    plain = decode_time(read("causal", None, masks.causal), sizes)
    for case in (sink, CASES["sigmoid"]):
        time = decode_time(reading(case, masks.causal), sizes)
        assert time.cycles["low"] < time.cycles["nominal"] < time.cycles["high"]
        assert 0.6 < time.cycles["nominal"] / plain.cycles["nominal"] < 1.1
        assert time.sram_bytes <= 49_152
