"""What every attention variant offers, whatever its operands are."""

from typing import Any, Protocol, runtime_checkable

from kernels.attention.check import Report, Results
from kernels.attention.clock import VariantTime
from kernels.attention.explain import Explanation


@runtime_checkable
class AttentionVariant(Protocol):
    """A variant as reports and tests know it; each says which operands and sizes it takes.

    `Variant` takes `q, k, v`. Others are made of one and take others: keys in pages, several maps
    for each output, latents in place of keys and values.
    """

    @property
    def name(self) -> str:
        """In reports."""
        ...

    def dense(self, *operands: Any, **options: Any) -> Results:
        """The oracle: output and log-sum-exp in float64, on no machine."""
        ...

    def prefill(self, *operands: Any, **options: Any) -> Results:
        """On a mesh of Trainium chips; takes `chips`, `placement` and more."""
        ...

    def decode(self, *operands: Any, **options: Any) -> Results:
        """Of the newest query, on the wafer."""
        ...

    def check(self, *_: Any, **sizes: Any) -> Report:
        """Compares all forms at a small size."""
        ...

    def time(self, *_: Any, **sizes: Any) -> VariantTime:
        """The clock of both machines, from sizes alone."""
        ...

    def explain(self, *_: Any, **sizes: Any) -> Explanation:
        """Its live tiles, where its tokens stand and why, and what is done to every score."""
        ...


__all__ = ["AttentionVariant"]
