"""Attention masks, as functions of batch, head and positions; how tiles are cut is in the files."""

from kernels.masks.catalogue import (
    Mask,
    NamedMask,
    and_masks,
    block_causal,
    causal,
    chunked,
    dilated,
    documents,
    full,
    name,
    named,
    negate,
    or_masks,
    prefix,
    sinks,
    window,
)

__all__ = [
    "Mask",
    "NamedMask",
    "and_masks",
    "block_causal",
    "causal",
    "chunked",
    "dilated",
    "documents",
    "full",
    "name",
    "named",
    "negate",
    "or_masks",
    "prefix",
    "sinks",
    "window",
]
