"""Attention masks, as functions of batch, head and positions; how tiles are cut is in the files."""

from kernels.masks.catalogue import (
    Mask,
    block_causal,
    both,
    causal,
    chunked,
    dilated,
    documents,
    either,
    full,
    name,
    negate,
    prefix,
    sinks,
    window,
)

__all__ = [
    "Mask",
    "block_causal",
    "both",
    "causal",
    "chunked",
    "dilated",
    "documents",
    "either",
    "full",
    "name",
    "negate",
    "prefix",
    "sinks",
    "window",
]
