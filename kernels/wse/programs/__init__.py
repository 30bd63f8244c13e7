"""Fabric programs: GEMV, GEMM, single operations, published kernels."""
