"""Faults of what has a name: kernels of the catalogue, fabric programs, systems, datasheets."""

# What is given here is of the wrong type on purpose.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

from typing import Any

from emu.trainium import GENERATIONS, TRN2, TRN3
from kernels import FABRIC_PROGRAMS, TRAINIUM_KERNELS
from tests.faults.fault import Fault, Faults

DEVICES = {"trn2": TRN2.at(), "trn3": TRN3.at()}


def kernel(name: str, device: str = "trn2", **sizes: Any):
    """Builds a kernel of the catalogue and reads its clock."""

    def make() -> Any:
        program, arguments = TRAINIUM_KERNELS[name].build(**sizes)
        return program.read(DEVICES[device], *arguments)

    return make


SMALL = dict(m=256, k=256, n=512)
HEADS = dict(heads=2, kv_heads=1, tokens=256, head_dim=64)
ROWS = dict(rows=256, n=512)
WHOLE = "must be a whole number"
FAULTS: Faults = {
    # --- names ---
    "an unknown kernel": Fault(
        lambda: TRAINIUM_KERNELS["gemv"], "no kernel 'gemv', has gemm,"
    ),
    "an unknown fabric program": Fault(
        lambda: FABRIC_PROGRAMS["gemmv"], "no fabric program 'gemmv', has"
    ),
    "an unknown generation": Fault(
        lambda: GENERATIONS["trn9"], "no generation 'trn9', has"
    ),
    # --- sizes ---
    "m=0": Fault(
        kernel("gemm", **SMALL | dict(m=0)), f"gemm: m is 0, {WHOLE} from 1 to"
    ),
    "m=-1": Fault(kernel("gemm", **SMALL | dict(m=-1)), "gemm: m is -1"),
    "m=10^9": Fault(
        kernel("gemm", m=10**9, k=10**9, n=10**9), "bytes of hbm, has", line=False
    ),
    "m=2.5": Fault(kernel("gemm", **SMALL | dict(m=2.5)), "gemm: m is 2.5"),
    "m=NaN": Fault(kernel("gemm", **SMALL | dict(m=float("nan"))), "gemm: m is nan"),
    "m='256'": Fault(kernel("gemm", **SMALL | dict(m="256")), "gemm: m is '256'"),
    "m=None": Fault(kernel("gemm", **SMALL | dict(m=None)), "gemm: m is None"),
    "m=True": Fault(kernel("gemm", **SMALL | dict(m=True)), "gemm: m is True"),
    "k=100": Fault(
        kernel("gemm", **SMALL | dict(k=100)),
        "k is 100, must be a multiple of 128",
    ),
    "n=500": Fault(
        kernel("gemm", **SMALL | dict(n=500)),
        "n is 500, must be a multiple of 512",
    ),
    "m=130": Fault(
        kernel("gemm", **SMALL | dict(m=130)),
        "m is 130, must be a multiple of 128",
    ),
    "dtype of words": Fault(
        kernel("gemm", **SMALL, dtype="fp4"), "gemm: dtype is 'fp4', must be one of"
    ),
    "dtype of integers": Fault(kernel("gemm", **SMALL, dtype="int32"), "int32"),
    "dtype by number": Fault(kernel("gemm", **SMALL, dtype=16), "gemm: dtype is 16"),
    "an unknown size": Fault(kernel("gemm", depth=3), "gemm: no parameter depth"),
    "an unknown variant": Fault(
        kernel("gemm", **SMALL, variant="fast"), "gemm: no variant 'fast', must be"
    ),
    "a variant by number": Fault(
        kernel("gemm", **SMALL, variant=3),
        "gemm: no variant is 3|variant is 3, must be a name",
    ),
    "0 buffers": Fault(kernel("gemm", **SMALL, buffers=0), "buffers is 0"),
    "-1 buffers": Fault(kernel("gemm", **SMALL, buffers=-1), "buffers is -1"),
    "10^8 buffers": Fault(
        kernel("softmax_fused", **ROWS, buffers=10**8), "bytes of sbuf, has", line=False
    ),
    "1.5 buffers": Fault(kernel("gemm", **SMALL, buffers=1.5), "buffers is 1.5"),
    "MX of 100 features": Fault(
        kernel("matmul_mx", "trn3", m=128, k=100, n=512),
        "100 features, must be a multiple of 512",
    ),
    "MX on Trainium2": Fault(
        kernel("matmul_mx", m=128, k=512, n=512),
        "device is Trainium2, must be Trainium3",
        line=False,
    ),
    "3 tiles of MX": Fault(
        kernel("matmul_mx", "trn3", m=256, k=512, n=512, tiles=-1), "tiles is -1"
    ),
    "columns 0 of MX": Fault(
        kernel("matmul_mx", "trn3", m=256, k=512, n=512, columns=0), "columns is 0"
    ),
    "3 heads over 2": Fault(
        kernel("flash_causal", **HEADS | dict(heads=3, kv_heads=2)),
        "3 query heads over 2 heads",
    ),
    "0 heads": Fault(kernel("flash_causal", **HEADS | dict(heads=0)), "heads is 0"),
    "head_dim 256": Fault(
        kernel("flash_causal", **HEADS | dict(head_dim=256)),
        "is 256, at most 128",
        line=False,
    ),
    "-1 tokens": Fault(
        kernel("flash_causal", **HEADS | dict(tokens=-1)), "tokens is -1"
    ),
    "10^9 tokens": Fault(
        kernel("flash_causal", **HEADS | dict(tokens=10**9)),
        "bytes of hbm, has",
        line=False,
    ),
    "0 columns": Fault(kernel("flash_full", **HEADS, columns=0), "columns is 0"),
    "-1 columns": Fault(kernel("flash_full", **HEADS, columns=-1), "columns is -1"),
    "1024 columns": Fault(
        kernel("flash_full", **HEADS | dict(tokens=1024), columns=1024),
        "bytes of psum, has",
        line=False,
    ),
    "0 lanes": Fault(kernel("flash_pipelined", **HEADS, lanes=0), "lanes is 0"),
    "-1 lanes": Fault(kernel("flash_grouped", **HEADS, lanes=-1), "lanes is -1"),
    "9 copies": Fault(
        kernel("flash_pipelined", **HEADS, scalar_copies=-1), "scalar_copies is -1"
    ),
    "0 rows": Fault(kernel("softmax_fused", **ROWS | dict(rows=0)), "rows is 0"),
    "n=0": Fault(kernel("softmax_fused", **ROWS | dict(n=0)), "n is 0"),
    "n=10^9": Fault(
        kernel("softmax_fused", **ROWS | dict(n=10**9)),
        "bytes of sbuf, has",
        line=False,
    ),
    "piece 0": Fault(kernel("softmax_online", **ROWS, piece=0), "piece is 0"),
    "piece -1": Fault(kernel("softmax_online", **ROWS, piece=-1), "piece is -1"),
    "piece 2.5": Fault(kernel("softmax_three_pass", **ROWS, piece=2.5), "piece is 2.5"),
    "0 tokens of a norm": Fault(
        kernel("rms_norm_mx", "trn3", rows=64, n=512, tokens=0), "tokens is 0"
    ),
    "an odd head": Fault(
        kernel("rope_rows", rows=128, heads=2, head_dim=7),
        "head_dim is 7, must be even",
    ),
    "flops of unknown sizes": Fault(
        lambda: TRAINIUM_KERNELS["gemm"].useful_flops(depth=3),
        "gemm: no parameter depth",
    ),
    "bytes of 0 rows": Fault(
        lambda: TRAINIUM_KERNELS["softmax_fused"].useful_bytes(rows=0), "rows is 0"
    ),
}
