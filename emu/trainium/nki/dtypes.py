"""Element formats under NKI's names, packed ones among them.

A packed format has four microscaled elements in one, so that a partition's four neighbours enter
the Tensor Engine together. A kernel counts and addresses the packed elements; the engines here see
the four. As a NumPy dtype a packed format is a record of one field, named as NKI names the format:
an array of it is an argument, and `unpacked` says what lies in a buffer.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from emu.annotations import DType
from emu.errors import EmulationError


def _packed(name: str, element: DType, count: int) -> np.dtype:
    return np.dtype([(name, np.dtype(element), (count,))])


PACKED: Mapping[str, np.dtype] = {
    "float8_e4m3fn_x4": _packed("float8_e4m3fn_x4", jnp.float8_e4m3fn, 4),
    "float8_e5m2_x4": _packed("float8_e5m2_x4", jnp.float8_e5m2, 4),
    # Two 4-bit elements to a byte.
    "float4_e2m1fn_x4": _packed("float4_e2m1fn_x4", np.uint8, 2),
}

DTYPES: Mapping[str, np.dtype] = {
    **{
        name: np.dtype(name)
        for name in ("int8", "int16", "int32", "uint8", "uint16", "uint32")
    },
    "bool_": np.dtype(np.bool_),
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
    "tfloat32": np.dtype(np.float32),
    "bfloat16": np.dtype(jnp.bfloat16),
    "float8_e4m3": np.dtype(jnp.float8_e4m3),
    "float8_e4m3fn": np.dtype(jnp.float8_e4m3fn),
    "float8_e5m2": np.dtype(jnp.float8_e5m2),
    # Scales of microscaled groups: exponents.
    "float8_e8m0fnu": np.dtype(np.uint8),
    **PACKED,
}


def named(dtype: object, function: str) -> np.dtype:
    """A dtype as a kernel gives it: NKI's, NumPy's, JAX's, or a name such as `float8e4`."""
    names = {**DTYPES, "float8e4": DTYPES["float8_e4m3"], "bool": DTYPES["bool_"]}
    names["float8e5"] = DTYPES["float8_e5m2"]
    if isinstance(dtype, str) and dtype in names:
        return names[dtype]
    try:
        return np.dtype(dtype)  # pyright: ignore[reportCallIssue, reportArgumentType]
    except TypeError:
        known = ", ".join(DTYPES)
        raise EmulationError(
            f"{function}: dtype is {dtype!r}, must be one of {known}"
        ) from None


def unpacked(dtype: np.dtype) -> tuple[np.dtype, int]:
    """What one element is in a buffer: `(element, how many)`, `(dtype, 1)` if it is not packed."""
    if not dtype.fields:
        return dtype, 1
    field, *_ = [entry[0] for entry in dtype.fields.values()]
    assert field.subdtype is not None
    element, (count,) = field.subdtype
    return element, count


def elements(array: np.ndarray) -> np.ndarray:
    """An array of a packed format as one of elements, with a further dimension of those of one."""
    element, count = unpacked(array.dtype)
    return array.view(element).reshape(*array.shape, count) if count > 1 else array


def is_packed(dtype: np.dtype) -> bool:
    return dtype.fields is not None


__all__ = ["DTYPES", "PACKED", "elements", "is_packed", "named", "unpacked"]
