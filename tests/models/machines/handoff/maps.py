"""Small regions of every kind of cache, for tests of the hand-off."""

import numpy as np
from hypothesis import strategies as st

from emu.wse.placement.regions import Rect
from kernels.formats.formats import FORMATS
from kernels.latent_heads import LatentHeads
from kernels.tokens.placement import place
from kernels.wse.decode.form import DecodeForm
from kernels.wse.decode.held import Held
from kernels.wse.decode.mapping import LayerMap
from models.machines.handoff import Landing, Source
from models.machines.handoff.fields import as_format

WIDE = as_format("bfloat16")
SMALL_MLA = LatentHeads(query_rank=None, rank=12, plain=4, turned=8, value_dim=4)


def of_heads(
    rows=3,
    parts=2,
    kv_heads=2,
    head_dim=8,
    rotary_dim=None,
    context=20,
    cache=None,
    dtype="bfloat16",
) -> LayerMap:
    """A region whose cache is keys and values."""
    return LayerMap(
        hidden=16,
        ffn=32,
        heads=2 * kv_heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        eps=1e-5,
        qk_norm=False,
        context=context,
        rows=rows,
        parts=parts,
        dtype=dtype,
        form=DecodeForm(rotary_dim=rotary_dim),
        held=Held(cache=None if cache is None else FORMATS[cache]),
    )


def of_latents(rows=3, parts=2, groups=2, context=20, cache=None) -> LayerMap:
    """A region whose cache is latents, a copy in each group of columns."""
    return LayerMap(
        hidden=16,
        ffn=32,
        heads=4,
        kv_heads=groups,
        head_dim=SMALL_MLA.cached_width,
        eps=1e-5,
        qk_norm=False,
        context=context,
        rows=rows,
        parts=parts,
        dtype="bfloat16",
        form=DecodeForm(latent=SMALL_MLA),
        held=Held(cache=None if cache is None else FORMATS[cache]),
    )


def landing(layer: LayerMap, wafer=0, x=0, y=0) -> Landing:
    return Landing(wafer, Rect(x, y, layer.cols, layer.rows), layer)


def source(
    tokens=1000, chips=4, placement="contiguous", done=(0.1, 0.2), end=0.21, **more
) -> Source:
    """A prompt dealt out to chips."""
    slots = -(-tokens // chips)
    slots += slots % 2
    positions = place(placement, tokens, chips, slots).positions()
    more = {"stored": WIDE, **more}
    return Source(
        positions=positions, tokens=tokens, layer_done_s=done, prefill_s=end, **more
    )


REGIONS = st.one_of(
    st.builds(
        of_heads,
        rows=st.integers(1, 7),
        parts=st.sampled_from([1, 2, 4]),
        kv_heads=st.integers(1, 3),
        head_dim=st.sampled_from([8, 16]),
        rotary_dim=st.sampled_from([None, 8]),
        context=st.just(40),
    ),
    st.builds(
        of_latents,
        rows=st.integers(1, 7),
        parts=st.sampled_from([1, 2, 4]),
        groups=st.integers(1, 4),
        context=st.just(40),
    ),
)
PLACEMENTS = st.sampled_from(["contiguous", "zigzag", "striped"])


def numbered(*shape: int, first: int = 1) -> np.ndarray:
    """Each element a number of its own, none of them 0."""
    return np.arange(first, first + np.prod(shape), dtype=np.int64).reshape(shape)
