"""What to call on a PE in place of plain arithmetic on tiles, by JAX's primitive."""

from collections.abc import Mapping


def _vector(op: str) -> str:
    return f'vector(dst, a, b, op="{op}")'


INSTEAD: Mapping[str, str] = {
    "add": _vector("add"),
    "add_any": _vector("add"),
    "sub": _vector("sub"),
    "mul": _vector("mul"),
    "max": _vector("max"),
    "neg": "vector_scale(dst, x, factor) with a factor of -1",
    "div": "reciprocal(dst, b), then vector",
    "exp": "exp(dst, x, most, live, scale=1.0)",
    "logistic": "silu(dst, x, count=n)",
    "rsqrt": "rsqrt_mean(dst, x, n=n, eps=0.0)",
    "dot_general": "fmac_map(dst, weights, x)",
    "reduce_sum": 'fold(dst, x, live, op="add")',
    "reduce_max": 'fold(dst, x, live, op="max")',
    "argmax": "argmax(...)",
    "gather": "lookup(dst, table, index, first=0)",
    "dynamic_update_slice": "copy_into(dst, x, index, axis=0)",
    "convert_element_type": "copy(dst, x) into a tile of the other dtype",
}

__all__ = ["INSTEAD"]
