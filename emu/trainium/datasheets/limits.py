"""Sizes and intervals of AWS's instruction reference that no generation changes.

Source: NKI ISA reference of aws-neuron-sdk 2.26.1 and 2.32, nki/api/nki/isa/__init__.py; access
patterns from nki/guides/architecture/trainium_inferentia2_arch.rst.
"""

TILE_DTYPES = (
    *("float32", "bfloat16", "float16"),
    *("float8_e4m3fn", "float8_e4m3", "float8_e5m2", "float8_e3m4"),
    *("int32", "uint32", "int16", "uint16", "int8", "uint8"),
)
# Pieces in which a copy within HBM is taken to move: those of a collective's DMA (SDK 2.32,
# compute-comm-overlap.rst); of a plain copy none are published.
DMA_PACKET_BYTES = 65536
FREE_DIMENSIONS = 4  # of an access pattern, besides the partitions
# Elements of a partition in one instruction of Vector or Scalar.
FREE_ELEMENTS = {
    "sbuf": 65536,
    "psum": 4096,
}
# Partitions among which nc_stream_shuffle and the Vector Engine's transpose move data.
QUADRANT = 32
SHUFFLE_KEEP = 255  # entry of a shuffle mask that leaves its partition as it was

BN_STATS_ELEMENTS = 512
SEARCH8_ELEMENTS = (8, 16384)  # of nc_max8, nc_find_index8 and nc_match_replace8
DYNAMIC_INTERVAL_CYCLES = 600  # least interval of a copy whose address is in SBUF

GATHER_PARTITIONS = 16  # of one GpSimd core
GATHER_INDICES = 4096  # of one GpSimd core
GATHER_GROUP = 512  # indices of a partition that nc_n_gather takes at once
GATHER_ELEMENTS = (1, 2, 4, 8, 16, 32)  # an index

MX_QUAD = 4  # elements of a partition that enter the Tensor Engine at once
MX_PARTITIONS = 8  # of a group; 8 x 4 elements share a scale
MX_ROWS = 32  # partitions of an MX operand come in multiples of these
MX_DESTINATION_BYTES = 2048  # of a partition of PSUM that one MX matmul may write

# Where the operands of Tensor, Vector, Scalar and GpSimd may begin, and how many partitions they
# may then be; the same guide.
START_PARTITIONS = {0: 128, 32: 32, 64: 64, 96: 32}
