"""Variants against torch's FlexAttention with attention-gym's functions, stored and live."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from kernels import Variant, attention, masks, variants
from tests.kernels.attention import make_references
from tests.kernels.attention.make_references import (
    DATA,
    HEADS,
    OFFSETS,
    OPERANDS,
    PARENTS,
    TOKENS,
)

STORED = safetensors.numpy.load_file(DATA)
KNOWN = TOKENS - len(PARENTS)


def rows(b: Any, h: Any, q: Any, k: Any) -> Any:
    return (q >= 4) & (k <= q)


def tanh_softcap(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    """As one writes it for FlexAttention, with -inf for a mask."""
    return jnp.where(kv_idx <= q_idx, 2 * jnp.tanh(score / 2), -float("inf"))


CASES: dict[str, Variant] = {
    "causal": variants.causal(),
    "sliding_window": variants.sliding_window(7),
    "dilated_window": variants.dilated_window(4, 2),
    "global_local": variants.global_local(3, 5),
    "prefix_lm": variants.prefix_lm(9),
    "packed": attention(masks.packed(OFFSETS, masks.prefix(2))),
    "shared_prefix": variants.shared_prefix(12, [6, 7, 11]),
    "block_diffusion": variants.block_diffusion(18, 6),
    "neighborhood": variants.neighborhood(6, 6, 3),
    "tree": variants.tree(PARENTS, KNOWN),
    "rows_without_a_key": attention(rows),
    "alibi": variants.alibi(HEADS),
    "soft_cap": attention(tanh_softcap),
}


def test_every_stored_case_is_compared() -> None:
    names = {name.split(".")[0] for name in STORED}
    assert names - set(OPERANDS) == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_dense_is_flex_attention(name: str) -> None:
    q, k, v = (STORED[operand] for operand in OPERANDS)
    offset = KNOWN if name == "tree" else 0
    out, sums = CASES[name].dense(q[:, :, offset:], k, v, q_offset=offset)
    wanted, of_sums = STORED[f"{name}.out"], STORED[f"{name}.lse"]
    np.testing.assert_allclose(out, wanted, rtol=0, atol=1e-12)
    assert sums is not None
    # torch takes the logarithm of the sums by way of base two.
    np.testing.assert_allclose(sums, of_sums, rtol=0, atol=1e-12)


@pytest.mark.hf_live
@pytest.mark.filterwarnings("default")  # torch's own warnings are not ours to fail on
def test_the_stored_references_are_what_torch_gives_now() -> None:
    for package in ("torch", "attn_gym"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    now = make_references.compute()
    assert set(now) == set(STORED)
    for name, stored in STORED.items():
        np.testing.assert_allclose(now[name], stored, rtol=0, atol=1e-13, err_msg=name)
