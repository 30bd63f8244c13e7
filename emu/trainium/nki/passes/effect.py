"""What a pass of the compiled reading did to a kernel, for its report."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Effect:
    """What one pass changed.

    Attributes:
      name: of the pass, as it is switched off by.
      sentence: in words, with figures before and after: `HBM reads 302 -> 42 MB`.
      spilled_bytes: that it writes to HBM and reads again, or loads more often, as SBUF was full.
    """

    name: str
    sentence: str
    spilled_bytes: int = 0


__all__ = ["Effect"]
