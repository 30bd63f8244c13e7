"""Attention variants with a name, each in a file of its own with its paper."""

from kernels.variants.alibi import alibi
from kernels.variants.block_causal import block_causal
from kernels.variants.block_diffusion import block_diffusion
from kernels.variants.catalogue import CATALOGUE, Entry, Sizes, make
from kernels.variants.causal import causal
from kernels.variants.chunked import chunked
from kernels.variants.cross import cross
from kernels.variants.differential import differential, lambda_of
from kernels.variants.dilated_window import dilated_window
from kernels.variants.fp8_cache import Fp8Cache, fp8_cache, quantise_fp8
from kernels.variants.full import full
from kernels.variants.gated import gated
from kernels.variants.global_local import global_local
from kernels.variants.grouped import grouped
from kernels.variants.head_temperature import head_temperature
from kernels.variants.int8_cache import Int8Cache, int8_cache, quantise_int8
from kernels.variants.learned_sink import learned_sink
from kernels.variants.mla import mla
from kernels.variants.mxfp8_cache import mxfp8_cache
from kernels.variants.neighborhood import neighborhood
from kernels.variants.off_by_one import off_by_one
from kernels.variants.operands import Operands, draw
from kernels.variants.packed_documents import packed_documents
from kernels.variants.paged import paged
from kernels.variants.prefix_lm import prefix_lm
from kernels.variants.relative_bias import relative_bias
from kernels.variants.shared_prefix import shared_prefix
from kernels.variants.sigmoid import sigmoid
from kernels.variants.sinks_window import sinks_window
from kernels.variants.sliding_window import sliding_window
from kernels.variants.soft_cap import soft_cap
from kernels.variants.tree import tree

__all__ = [
    "Fp8Cache",
    "Int8Cache",
    "quantise_fp8",
    "quantise_int8",
    "CATALOGUE",
    "Entry",
    "Operands",
    "Sizes",
    "alibi",
    "block_causal",
    "block_diffusion",
    "causal",
    "chunked",
    "cross",
    "differential",
    "dilated_window",
    "draw",
    "fp8_cache",
    "full",
    "gated",
    "global_local",
    "grouped",
    "head_temperature",
    "int8_cache",
    "lambda_of",
    "learned_sink",
    "make",
    "mxfp8_cache",
    "mla",
    "neighborhood",
    "off_by_one",
    "packed_documents",
    "paged",
    "prefix_lm",
    "relative_bias",
    "shared_prefix",
    "sigmoid",
    "sinks_window",
    "sliding_window",
    "soft_cap",
    "tree",
]
