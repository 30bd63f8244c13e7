"""What of a PSUM tensor has been written, while a kernel is recorded."""

import dataclasses
from typing import TypeAlias

Region: TypeAlias = tuple[int, int | None, int, int, tuple[tuple[int, int], ...]]


@dataclasses.dataclass
class Written:
    """Of one tensor.

    Attributes:
      zeros: whether the kernel declared it with zeros, which are not written yet.
      products: by member and region, how often it was written.
    """

    zeros: bool = False
    products: dict[tuple[int, ...], dict[Region, int]] = dataclasses.field(
        default_factory=dict
    )
