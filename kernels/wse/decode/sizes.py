"""What decode's sizes must be, refused where they are given."""

from typing import Any

from emu import Device, Sheet, given
from emu.wse import WaferSheet
from emu.wse.pe.packed import CODES
from kernels.refusal import refuse

DTYPES = ("float32", "float16", "bfloat16")
MOST = 2**24
"""Far more than any model has of anything; a wafer holds 10**10 bytes."""


def check_whole(sizes: Any, *names: str) -> None:
    """Raises `LimitExceeded` for attributes that are no whole numbers of at least 1."""
    for name in names:
        within(name, getattr(sizes, name), 1, MOST)


def within(name: str, value: Any, least: int, most: int | None = None) -> None:
    """Raises `LimitExceeded` for what is no whole number in range."""
    if not given.is_whole(value, least, most):
        wanted = given.whole_number(least, most)
        refuse(f"{name} is {given.told(value)}, must be {wanted}")


def check_dtype(dtype: Any) -> None:
    """Raises `LimitExceeded` for a dtype in which a PE does not multiply and add."""
    if not isinstance(dtype, str) or dtype not in DTYPES:
        refuse(f"dtype is {given.told(dtype)}, must be one of {', '.join(DTYPES)}")


def check_cache_dtype(cache_dtype: Any, dtype: str) -> None:
    """Raises `LimitExceeded` for a dtype in which a PE does not hold what it multiplies."""
    if cache_dtype not in (dtype, *CODES):
        refuse(
            f"cache_dtype is {given.told(cache_dtype)}, must be {dtype}, as the queries' dtype, or "
            f"one of {', '.join(CODES)}"
        )


def check_block(block: int, head_dim: int, cache_dtype: str, dtype: str) -> None:
    """Raises `LimitExceeded` for powers of two that a PE's codes cannot have."""
    if not block:
        return
    within("block", block, 1, head_dim)
    if cache_dtype not in CODES or dtype == "float16":
        refuse(
            f"blocks of {block} share powers of two in a cache of {cache_dtype} with queries in "
            f"{dtype}, must be codes of {', '.join(CODES)} with bfloat16 or float32, whose "
            "exponents are as wide"
        )
    if head_dim % block:
        refuse(f"block is {block}, must divide {head_dim} dimensions")


def check_wafer(device: Any) -> None:
    """Raises `LimitExceeded` for what is no wafer under a band."""
    if isinstance(device, Sheet):
        refuse(
            f"device is the datasheet of {device.name}, must be at a band, such as `sheet.at()`"
        )
    if not isinstance(device, Device) or not isinstance(device.sheet, WaferSheet):
        told = device.name if isinstance(device, Device) else given.told(device)
        refuse(f"device is {told}, must be a wafer such as `WSE3.at()`")


__all__ = [
    "check_block",
    "check_cache_dtype",
    "check_dtype",
    "check_wafer",
    "check_whole",
    "within",
]
