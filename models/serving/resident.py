"""A user's cache in a decoder: tokens computed region by region, as the schedule has them begin."""

from models.machines.decode import Cache, Decoder, Step


class DecoderWalk:
    """One token on its way through a decoder.

    Attributes:
      step: what it came to, once the head is computed.
    """

    def __init__(self, decoder: Decoder, position: int, token: int, cache: Cache):
        self.step: Step | None = None
        self._walk = decoder.walk(token, position, cache)

    def compute(self, stage: str) -> None:
        """The next region's part; whoever calls goes through the regions in order.

        Raises:
          RuntimeError: the head was computed before.
        """
        if self.step is not None:
            raise RuntimeError(f"{stage!r} comes behind the head, which was computed")
        try:
            next(self._walk)
        except StopIteration as done:
            self.step = done.value

    @property
    def token(self) -> int:
        """The next token.

        Raises:
          RuntimeError: the head was not computed.
        """
        if self.step is None:
            raise RuntimeError("a token left before its head was computed")
        return self.step.token


class Resident:
    """A decoder with one user's cache.

    Attributes:
      decoder: whose weights are all users'.
      cache: the user's own.
      walks: of all tokens that entered, in order.
    """

    def __init__(self, decoder: Decoder, cache: Cache):
        self.decoder = decoder
        self.cache = cache
        self.walks: list[DecoderWalk] = []

    def start(self, position: int, token: int) -> DecoderWalk:
        """A walk of the token at that position, which may follow others closely."""
        self.walks.append(DecoderWalk(self.decoder, position, token, self.cache))
        return self.walks[-1]


__all__ = ["DecoderWalk", "Resident"]
