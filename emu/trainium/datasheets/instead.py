"""What to call on a NeuronCore in place of plain arithmetic on tiles, by JAX's primitive."""

from collections.abc import Mapping


def _tensor_tensor(op: str) -> str:
    return f'tensor_tensor(dst, a, b, op="{op}")'


def _activation(op: str) -> str:
    return f'activation(dst, x, op="{op}")'


def _tensor_reduce(op: str) -> str:
    return f'tensor_reduce(dst, x, op="{op}")'


_BINARY = {
    "add": "add",
    "add_any": "add",
    "sub": "subtract",
    "mul": "multiply",
    "max": "max",
    "min": "min",
    "eq": "equal",
    "ne": "not_equal",
    "ge": "greater_equal",
    "gt": "greater",
    "le": "less_equal",
    "lt": "less",
    "and": "bitwise_and",
    "or": "bitwise_or",
    "xor": "bitwise_xor",
    "shift_left": "left_shift",
    "shift_right_logical": "right_shift",
}
_UNARY = {
    "exp": "exp",
    "log": "log",
    "tanh": "tanh",
    "logistic": "sigmoid",
    "sin": "sin",
    "sqrt": "sqrt",
    "rsqrt": "rsqrt",
    "erf": "erf",
    "sign": "sign",
    "abs": "abs",
    "square": "square",
    "integer_pow": "square",
}
_REDUCE = {
    "reduce_sum": "add",
    "reduce_prod": "multiply",
    "reduce_max": "max",
    "reduce_min": "min",
}

# Views that would put data into other partitions.
_THROUGH_HBM = "store it with dma_store and load the buffer in the other shape"
_ACROSS = {
    "reshape": f"{_THROUGH_HBM}, or nc_transpose(dst, x)",
    "squeeze": f"keep dimension 0, `tile[i:i+1]`; to spread a row, {_THROUGH_HBM}",
    "slice": f"take partitions that follow one another; {_THROUGH_HBM}",
    "broadcast_in_dim": "nc_matmul(dst, ones, row, 0) with ones of [1, partitions], or load the "
    "row broadcast from HBM",
}

INSTEAD: Mapping[str, str] = {
    **_ACROSS,
    **{name: _tensor_tensor(op) for name, op in _BINARY.items()},
    **{name: _activation(op) for name, op in _UNARY.items()},
    **{name: _tensor_reduce(op) for name, op in _REDUCE.items()},
    "div": 'reciprocal(dst, b), then tensor_tensor(dst, a, that, op="multiply")',
    "neg": 'tensor_immediate(dst, x, op="multiply", value=-1.0)',
    "dot_general": "nc_matmul(dst, stationary, moving, accumulate)",
    "transpose": "nc_transpose(dst, x), or dma_transpose",
    "convert_element_type": "tensor_copy(dst, x) into a tile of the other dtype",
    "select_n": "tensor_copy_predicated(dst, x, predicate)",
    "concatenate": "tensor_copy.at[:, i](dst, x) for each part",
    "dynamic_update_slice": "tensor_copy.at[:, i, j:k](dst, x)",
    "gather": "dma_gather(dst, table, rows), or local_gather",
    "cumsum": 'tensor_tensor_scan(dst, a, b, start, op0="multiply", op1="add")',
    "sort": "nc_max8(dst, x), eight at a time",
    "top_k": "nc_max8(dst, x), eight at a time",
    "argmax": "nc_find_index8(dst, x, values)",
    "random_bits": "rand2(dst, seed, low=0.0, high=1.0)",
}

__all__ = ["INSTEAD"]
