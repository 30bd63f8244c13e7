"""Sizes of attention whose keys and values are made of a latent, as both machines and models have
them."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class LatentHeads:
    """Features of heads in multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, 2.1).

    DeepSeek-V3's 128 heads have 128 + 64 features of a key and 128 of a value, made of a latent of
    512: 576 numbers a token are cached, where heads' own keys and values would be 40,960.

    Attributes:
      query_rank: width of the queries' latent; None: queries are projected at once.
      rank: width of the latent that keys and values are made of.
      plain: features of a head's query and key that do not turn.
      turned: those that do; of a key, all heads share them.
      value_dim: features of a head's value.
    """

    query_rank: int | None
    rank: int
    plain: int
    turned: int
    value_dim: int

    @property
    def key_width(self) -> int:
        """Features of a head's query and key."""
        return self.plain + self.turned

    @property
    def cached_width(self) -> int:
        """What a token leaves in the cache: its latent, and the turned features of its key."""
        return self.rank + self.turned


__all__ = ["LatentHeads"]
