"""What `Variant.check` compares: it sees a wrong form, and finds variants right."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from emu.report.explain import NAMES
from kernels import attention, masks, variants
from kernels.attention.check import Forms, Report, check, merge
from kernels.attention.decode_spent import (
    PRODUCTS,
    SCALAR,
    SPENT_ON,
    VECTOR,
    kinds,
)
from kernels.variants import Sizes

GATES = np.ones((4, 8), np.float32)


def dense(
    q: Any, k: Any, v: Any, *, only: Any = None, q_offset: int = 0
) -> tuple[Any, Any]:
    """Causal, in NumPy; every head of its own."""
    position = np.arange(q.shape[2])[:, None] + q_offset
    live = np.arange(k.shape[2]) <= position
    if only is not None:
        live = live & only
    scores = np.where(live, q.astype(float) @ k.swapaxes(-1, -2), -np.inf)
    weights = np.exp(scores)
    total = weights.sum(-1)
    safe = np.where(total == 0, 1, total)
    sums = np.where(total == 0, -np.inf, np.log(safe))
    return weights @ v / safe[..., None], sums


def compared(**forms: Any) -> Report:
    right = dict(
        dense=dense,
        prefill=lambda *operands, **where: dense(*operands),
        decode=lambda q, k, v: dense(q, k, v, q_offset=k.shape[2] - 1),
    )
    return check("mine", Forms(**{**right, **forms}), heads=2, kv_heads=2)


def test_forms_that_agree_are_said_to() -> None:
    report = compared()
    assert report.agrees and str(report).startswith("mine: agrees\n")
    # Two orders of merging, one chip, two and four under each of four placements, and decode.
    assert len(report.comparisons) == 2 + 1 + 2 * 4 + 1


def late(q: Any, k: Any, v: Any, **where: Any) -> tuple[Any, Any]:
    out, sums = dense(q, k, v)
    wrong = where["chips"] == 4 and where["placement"] == "zigzag"
    return out, sums + 1e-3 if wrong else sums


def test_a_form_that_differs_is_named() -> None:
    report = compared(prefill=late)
    (found,) = (x for x in report.comparisons if not x.agrees)
    assert found.what == "prefill on 4 chips, zigzag"
    assert found.sums == pytest.approx(1e-3) and not report.agrees
    assert str(report).count("DIFFERS") == 2


def test_no_number_is_a_difference() -> None:
    def nothing(q: Any, k: Any, v: Any) -> tuple[Any, Any]:
        out, sums = dense(q, k, v)
        return np.full_like(out, np.nan), sums

    *others, decode = compared(decode=nothing).comparisons
    assert not decode.agrees and all(x.agrees for x in others)


def test_parts_without_a_key_merge_to_the_others() -> None:
    nothing = np.zeros((1, 1, 2, 3)), np.full((1, 1, 2), -np.inf)
    some = np.ones((1, 1, 2, 3)), np.array([[[0.5, -np.inf]]])
    for pair in ((nothing, some), (some, nothing)):
        out, sums = merge(*pair)
        np.testing.assert_array_equal(sums, some[1])
        np.testing.assert_array_equal(out[0, 0, 0], some[0][0, 0, 0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alibi", "chunked", "soft_cap", "head_temperature"])
def test_variants_agree_on_all_machines(name: str) -> None:
    variant, _ = variants.make(name, Sizes(24, 4, 2, 8, 2))
    report = variant.check()
    assert report.agrees, report


def test_decode_is_the_last_row_with_the_variants_own_scale() -> None:
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, n, 12, 4)).astype(np.float32) for n in (2, 1, 1))
    variant = attention(
        lambda s, b, h, q, k: s * (h + 1), mask=masks.window(5), scale=0.25
    )
    out, sums = variant.decode(q[:, :, -1:], (k, v), rows=2, parts=1)
    wanted, of_sums = variant.dense(q[:, :, -1:], k, v, q_offset=11)
    np.testing.assert_allclose(out, wanted, rtol=0, atol=2e-6)
    assert sums is not None and of_sums is not None
    np.testing.assert_allclose(sums, of_sums, rtol=0, atol=2e-6)


def test_time_is_of_both_machines_and_in_bands() -> None:
    sizes: dict[str, Any] = dict(heads=2, kv_heads=1, head_dim=32, chips=2)
    found = variants.sliding_window(64).time(tokens=256, rows=4, parts=1, **sizes)
    for seconds in (found.prefill.seconds, found.decode.seconds):
        assert 0 < seconds["low"] <= seconds["nominal"] <= seconds["high"]
    name, prefill, of_prefill, decode, of_decode = str(found).splitlines()
    assert name == "sliding_window" and "decode on 2 x 4 PEs" in decode
    assert f"prefill on 2 chips, {found.prefill.placed}" in prefill
    engine = NAMES[found.prefill.bound]
    busy = found.prefill.busy[found.prefill.bound]
    assert f"bound by {engine}, {busy:.0%} busy; beside it" in of_prefill
    assert f"bound by {found.decode.bound}, " in of_decode
    assert sum(found.decode.spent.values()) == found.decode.cycles["nominal"]
    assert set(found.decode.spent) == set(SPENT_ON)


def test_explains_tiles_places_and_arithmetic() -> None:
    """Of 8 x 8 tiles a window of 256 leaves the diagonal and two below it, one of them whole."""
    capped = attention(variants.soft_cap(), mask=masks.window(256))
    found = capped.explain(tokens=1024, chips=2)
    assert (found.tiles, found.live, found.full) == (64, 8 + 7 + 6, 7)
    assert found.scores[found.placed] == min(found.scores.values())
    assert found.on_score == (
        # The Scalar Engine multiplies on the way into its functions.
        ("div", "Scalar Engine"),
        ("tanh", "Scalar Engine"),
        ("mul", "Vector Engine"),
    )
    told = str(found)
    assert "21 of 64 live (32.8%), 7 full" in told
    assert f"stand {found.placed}, which is least: tiles of the busiest chip" in told
    assert all(line in told for line in found.clock.lines)


def test_explains_a_monoid_s_arithmetic() -> None:
    gated = variants.gated(lambda b, h, q, d: jnp.asarray(GATES)[q % 4, d])
    found = gated.explain(tokens=256, head_dim=8)
    assert found.on_score == () and found.on_output == (
        ("div", "Vector Engine"),
        ("logistic", "Scalar Engine"),
        ("mul", "Vector Engine"),
    )
    assert "on what is summed, at the end: div logistic mul (2 on" in str(found)
    sigmoid = variants.sigmoid(256).explain(tokens=256)
    assert sigmoid.on_score == (
        ("add", "Scalar Engine"),
        ("logistic", "Scalar Engine"),
    )
    assert "at the end" not in str(sigmoid)


def test_a_placement_is_why_it_is() -> None:
    """Of four contiguous chips with two tiles each, the busiest takes 3 and then 4, 4 and 4."""
    causal = variants.causal()
    told = str(causal.explain(tokens=4096, chips=4, placement="contiguous"))
    why = "as was asked: tiles of the busiest chip, hop by hop, are contiguous 15, zigzag 9"
    assert f"stand contiguous, {why}" in told
    assert "stand contiguous, there being one chip" in str(causal.explain(tokens=256))


def test_a_soft_cap_is_scalar_code_on_a_wafer() -> None:
    """And some vector operations; what the fabric and the cache take is as without."""
    sizes: dict[str, Any] = dict(tokens=256, heads=2, kv_heads=1, head_dim=32)
    plain, capped = (
        x.time(rows=4, parts=1, **sizes).decode.spent
        for x in (variants.causal(), variants.soft_cap())
    )
    more = {what: capped[what] - plain[what] for what in plain}
    assert more[SCALAR] > more[VECTOR] > 0 == more[PRODUCTS]
    assert more[SCALAR] + more[VECTOR] > 0.9 * sum(more.values())


def test_every_instruction_of_a_wafer_is_of_a_kind() -> None:
    assert set(kinds().values()) == set(SPENT_ON)
