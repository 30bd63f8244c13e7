"""The forms of RoPE scaling: what a config states of each, under Hugging Face's names.

`models.plain.rope` computes them. Five are Hugging Face's; `divisors` is what GGUF files of Llama
3.1 hold (the tensor `rope_freqs.weight`): the same scaling, worked out by the converter.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from models.errors import ModelError, shown


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScalingForm:
    """What one `rope_type` is stated by.

    Attributes:
        numbers: Positive numbers that must be there.
        lists: Lists that must be there, of a positive number for each pair of a head.
        optional_numbers: Positive numbers that may be left out.
        flags: Booleans that may be left out.
    """

    numbers: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    optional_numbers: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        """All of its fields besides `rope_type`."""
        return (*self.numbers, *self.lists, *self.optional_numbers, *self.flags)


ORIGINAL = "original_max_position_embeddings"
SCALING_FORMS = {
    "linear": ScalingForm(numbers=("factor",)),
    "dynamic": ScalingForm(numbers=("factor",)),
    "yarn": ScalingForm(
        numbers=("factor", ORIGINAL),
        optional_numbers=(
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
        ),
        flags=("truncate",),
    ),
    "longrope": ScalingForm(
        numbers=(ORIGINAL,),
        lists=("short_factor", "long_factor"),
        optional_numbers=("factor", "attention_factor"),
    ),
    "llama3": ScalingForm(
        numbers=("factor", "low_freq_factor", "high_freq_factor", ORIGINAL)
    ),
    "divisors": ScalingForm(lists=("divisors",)),
}


def check_rope_scaling(name: str, scaling: Mapping[str, Any], head_dim: int) -> None:
    """Raises ModelError unless `scaling` is complete and nothing more, for heads of this width."""
    kind = scaling.get("rope_type")
    if not isinstance(kind, str) or kind not in SCALING_FORMS:
        raise ModelError(
            f"{name}: rope_scaling must be None or have a rope_type of {list(SCALING_FORMS)}, "
            f"got {shown(kind)}; other scalings are not supported"
        )
    form = SCALING_FORMS[kind]
    for field in scaling.keys() - {"rope_type", *form.fields}:
        raise ModelError(
            f"{name}: rope_scaling.{field}={shown(scaling[field])} is nothing that rope_type "
            f"{kind!r} uses; it uses {list(form.fields)}"
        )
    for field in form.numbers:
        check_positive(name, f"rope_scaling.{field}", scaling.get(field))
    for field in form.optional_numbers:
        if field in scaling:
            check_positive(name, f"rope_scaling.{field}", scaling[field])
    for field in form.flags:
        if not isinstance(scaling.get(field, True), bool):
            raise ModelError(
                f"{name}: rope_scaling.{field} must be true or false, got "
                f"{shown(scaling[field])}; correct the config"
            )
    for field in form.lists:
        check_pairs(name, f"rope_scaling.{field}", scaling.get(field), head_dim // 2)
    if scaling.get(ORIGINAL, 2) <= 1:  # its logarithm divides
        raise ModelError(
            f"{name}: rope_scaling.{ORIGINAL} must exceed 1, got {scaling[ORIGINAL]}; "
            "correct the config"
        )
    if kind == "dynamic" and head_dim == 2:
        raise ModelError(
            f"{name}: rope_scaling of rope_type 'dynamic' needs head_dim over 2, got 2; "
            "correct the config"
        )
    if kind == "llama3":
        # Of Llama 4 Scout both are 1: nothing lies between slowed and kept.
        bounds = "low_freq_factor", "high_freq_factor"
        check_order(name, scaling, *bounds, may_agree=True)
    if kind == "yarn":
        defaults = {"beta_slow": 1, "beta_fast": 32}
        # Of Kimi-K2 both are 1: its ramp is one pair wide.
        both = defaults | dict(scaling)
        check_order(name, both, "beta_slow", "beta_fast", may_agree=True)


def check_positive(name: str, field: str, value: Any) -> None:
    """Raises ModelError unless `value` is a finite positive number."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        raise ModelError(
            f"{name}: {field} must be a positive number, got {shown(value)}; "
            "correct the config"
        )


def check_pairs(name: str, field: str, values: Any, pairs: int) -> None:
    """Raises ModelError unless `values` is a list of a positive number for each pair of a head."""
    if not isinstance(values, (list, tuple)) or len(values) != pairs:
        raise ModelError(
            f"{name}: {field} must be a list of {pairs} numbers, one for each pair of a head, "
            f"got {shown(values)}; correct the config"
        )
    for value in values:
        check_positive(name, f"each number of {field}", value)


def check_order(
    name: str,
    scaling: Mapping[str, Any],
    low: str,
    high: str,
    *,
    may_agree: bool = False,
) -> None:
    """Raises ModelError unless one field exceeds the other, or equals it where that is allowed."""
    if scaling[high] < scaling[low] or (
        scaling[high] == scaling[low] and not may_agree
    ):
        relation = "be at least" if may_agree else "exceed"
        raise ModelError(
            f"{name}: rope_scaling.{high} must {relation} {low}, got "
            f"{scaling[high]} and {scaling[low]}; correct the config"
        )
