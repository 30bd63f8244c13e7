"""Whether a variant's dense form, its prefill and its decode agree, at a small size."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from kernels.tokens.placement import PLACEMENTS

Results: TypeAlias = tuple[Any, Any]
"""Output `[batch, heads, queries, value_dim]`; log-sum-exp `[batch, heads, queries]`, or None."""

ROUNDING = 2e-6
"""Of float32 sums over a few dozen keys, relative to the greatest value."""

PARTS = 3
"""Into which keys are taken apart."""

DECODE = "decode of the last token"

SMALL_TILES = {"columns": 8, "lanes": 2}
"""Options of a prefill: tiles as small as the sizes, so that there are several."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two ways to the same numbers.

    Attributes:
      what: is compared with the dense form in float64.
      out, sums: greatest difference of the output and of the log-sum-exp; None where there is none.
      allowed: of either.
    """

    what: str
    out: float
    sums: float | None
    allowed: float

    @property
    def agrees(self) -> bool:
        """Whether both are as near as is allowed; a NaN is not."""
        sums = 0 if self.sums is None else self.sums
        return self.out <= self.allowed and sums <= self.allowed


@dataclasses.dataclass(frozen=True)
class Report:
    """What `check` compared.

    Attributes:
      name: of the variant.
      comparisons: in order.
    """

    name: str
    comparisons: tuple[Comparison, ...]

    @property
    def agrees(self) -> bool:
        """Whether all of them do."""
        return all(x.agrees for x in self.comparisons)

    def __str__(self) -> str:
        lines = [f"{self.name}: {'agrees' if self.agrees else 'DIFFERS'}"]
        width = max(len(x.what) for x in self.comparisons)
        for x in self.comparisons:
            mark = "" if x.agrees else "  DIFFERS"
            sums = "" if x.sums is None else f"log-sum-exp {x.sums:.1e}, "
            lines.append(
                f"  {x.what:{width}}  output {x.out:.1e}, {sums}allowed {x.allowed:.1e}{mark}"
            )
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Forms:
    """A variant's forms, each a function of queries, keys and values that gives `Results`.

    Attributes:
      dense: also of `q_offset`, and of `only`, a mask of keys `[keys]`; in float64.
      prefill: also of `chips` and `placement`, and of `SMALL_TILES`.
      decode: of the newest query and the other operands.
      folded: as its fold has it, also of `part_of`, which part each key is in, `[keys]`, and
        `backwards`, whether the last parts are merged first; in float64. None: it is a softmax.
    """

    dense: Callable[..., Results]
    prefill: Callable[..., Results]
    decode: Callable[..., Results]
    folded: Callable[..., Results] | None = None


def with_cache(decode: Callable[..., Results]) -> Callable[..., Results]:
    """Decode of a query and a cache as one of queries, keys and values."""
    return lambda q, k, v: decode(q, (k, v))


def check(
    name: str,
    forms: Forms,
    *,
    tokens: int = 24,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 8,
    batch: int = 2,
    chips: Sequence[int] = (1, 2, 4),
    placements: Sequence[str] = PLACEMENTS,
    seed: int = 0,
) -> Report:
    """Compares the forms on random operands.

    Dense attention to the keys of three parts, taken apart at random and merged by their
    log-sum-exps in both orders, must be that to all keys, and so must the fold of a monoid, merged
    by its weights; every prefill and the decode of the last token must be the dense form's.

    Args:
      name: of the variant.
      forms: that are compared.
      tokens, heads, kv_heads, head_dim, batch: of attention.
      chips: sizes of the mesh.
      placements: of tokens on more than one chip.
      seed: of the operands.
    """
    rng = np.random.default_rng(seed)
    counts = (heads, kv_heads, kv_heads)
    q, k, v = (
        rng.standard_normal((batch, count, tokens, head_dim)).astype(np.float32)
        for count in counts
    )
    wanted = forms.dense(q, k, v)
    allowed = ROUNDING * max(1.0, float(np.abs(v).max()))
    found = [
        compared(f"keys merged {order}", merged, wanted, 1e-12)
        for order, merged in _merged(forms, (q, k, v), rng)
    ]
    found += on_machines(forms, (q, k, v), tokens - 1, allowed, chips, placements)
    return Report(name, tuple(found))


def on_machines(
    forms: Forms,
    operands: Sequence[np.ndarray],
    last: int | Sequence[int],
    allowed: float,
    chips: Sequence[int],
    placements: Sequence[str],
) -> list[Comparison]:
    """Compares prefill on every mesh, and decode of the newest query, with the dense form.

    Args:
      forms: of the operands.
      operands: queries `[batch, heads, tokens, features]`, and the others.
      last: position of the last query, or of each sequence's.
      allowed: difference.
      chips, placements: as for `check`.
    """
    q, *others = operands
    wanted = forms.dense(*operands)
    found = []
    for count in chips:
        # On one chip there is nowhere else to stand.
        for placement in placements if count > 1 else placements[:1]:
            mesh = {"chips": count, "placement": placement}
            given = forms.prefill(*operands, **SMALL_TILES, **mesh)
            what = f"prefill on {count} chips, {placement}"
            found.append(compared(what, given, wanted, allowed))
    newest = q[:, :, -1:]
    of_newest = forms.dense(newest, *others, q_offset=last)
    given = forms.decode(newest, *others)
    found.append(compared(DECODE, given, of_newest, allowed))
    return found


def _merged(
    forms: Forms, operands: tuple[np.ndarray, ...], rng: np.random.Generator
) -> list[tuple[str, Results]]:
    """Attention to the keys of three random parts, merged from the left and from the right."""
    q, k, v = operands
    part_of = rng.integers(0, PARTS, k.shape[2])
    if forms.folded is not None:
        return [
            ("from the left", forms.folded(q, k, v, part_of=part_of, backwards=False)),
            ("from the right", forms.folded(q, k, v, part_of=part_of, backwards=True)),
        ]
    a, b, c = (_numbers(forms.dense(q, k, v, only=part_of == n)) for n in range(PARTS))
    return [
        ("from the left", merge(merge(a, b), c)),
        ("from the right", merge(a, merge(b, c))),
    ]


def merge(one: Results, other: Results) -> Results:
    """Attention to the keys of two parts, of that to each; a part without keys is (0, -inf)."""
    (out, sums), (of_other, other_sums) = one, other
    greatest = np.maximum(sums, other_sums)
    shift = np.where(np.isneginf(greatest), 0, greatest)
    weight, other_weight = np.exp(sums - shift), np.exp(other_sums - shift)
    total = weight + other_weight
    safe = np.where(total == 0, 1, total)
    mixed = out * weight[..., None] + of_other * other_weight[..., None]
    log_sum_exp = np.where(total == 0, -np.inf, shift + np.log(safe))
    return mixed / safe[..., None], log_sum_exp


def _numbers(results: Results) -> tuple[np.ndarray, np.ndarray | None]:
    out, sums = results
    wide = None if sums is None else np.asarray(sums, np.float64)
    return np.asarray(out, np.float64), wide


def compared(what: str, given: Results, wanted: Results, allowed: float) -> Comparison:
    """How far results are from those wanted."""
    out, sums = _numbers(given)
    wanted_out, wanted_sums = _numbers(wanted)
    of_sums = None
    if sums is not None and wanted_sums is not None:
        of_sums = _apart(sums, wanted_sums)
    return Comparison(what, _apart(out, wanted_out), of_sums, allowed)


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    # -inf of both is no difference, and of one an infinite one.
    same = one == other
    apart = np.abs(np.where(same, 0, one) - np.where(same, 0, other))
    return float(np.max(apart))


__all__ = [
    "Comparison",
    "DECODE",
    "Forms",
    "ROUNDING",
    "Report",
    "Results",
    "check",
    "compared",
    "merge",
    "on_machines",
    "with_cache",
]
