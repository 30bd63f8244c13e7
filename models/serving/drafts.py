"""Who proposes draft tokens: a small model in a pipeline of its own, or the user's own text."""

from collections.abc import Callable, Sequence

from models.serving.seat import Seat


class ModelDraft:
    """A small model that decodes greedily behind the known tokens, in a pipeline of its own.

    Its cache has the tokens that it was fed, which may have been wrong ones. So it is first fed
    those that are known and that it has not, one behind the other, and then its own.
    """

    def __init__(self, seat: Seat, prompt: Sequence[int] = ()):
        """A draft whose cache holds a prompt.

        Args:
          seat: in the draft's pipeline.
          prompt: tokens that its cache was handed over with; what is missing it is fed.
        """
        self._seat = seat
        self._fed = list(prompt)
        self._turn = 0

    @property
    def resting(self) -> bool:
        """Whether nothing of it is under way."""
        return not self._seat.in_flight

    def on_rest(self, rested: Callable[[], None]) -> None:
        """Has `rested` called whenever one of its tokens has left."""
        self._seat.rested = rested

    def begin(
        self, known: Sequence[int], most: int, offer: Callable[[int], None]
    ) -> None:
        """Feeds the known tokens, then proposes; see `Draft`."""
        self._turn += 1
        turn, last = self._turn, len(known) - 1

        def made(position: int, token: int) -> None:
            if turn != self._turn or position < last:
                return
            offer(token)
            # The one behind the last known token is the first proposed.
            if position - last + 1 < most and turn == self._turn:
                self._fed.append(token)
                self._seat.submit(position + 1, token, made)

        # The last known one is fed in any case: what it gives is the first proposed.
        right = min(_alike(self._fed, known), last)
        del self._fed[right:]
        for position in range(right, len(known)):
            self._fed.append(known[position])
            self._seat.submit(position, known[position], made)


class LookupDraft:
    """Proposes what followed the last tokens where they stood before; it takes no time.

    In `a b c d a b` the last two stood at the beginning, so `c d a b` is proposed.
    """

    resting = True

    def on_rest(self, rested: Callable[[], None]) -> None:
        """It always rests."""

    def __init__(self, shortest: int = 2, longest: int = 4):
        """A draft that looks for the longest run of so many tokens that stood before, last first.

        Args:
          shortest, longest: tokens of such a run.
        """
        if not 1 <= shortest <= longest:
            raise ValueError(f"runs of {shortest} to {longest} tokens, must be of 1 on")
        self._lengths = range(longest, shortest - 1, -1)

    def begin(
        self, known: Sequence[int], most: int, offer: Callable[[int], None]
    ) -> None:
        """Proposes at once; see `Draft`."""
        for token in self.proposed(known, most):
            offer(token)

    def proposed(self, known: Sequence[int], most: int) -> list[int]:
        """The tokens behind the last run that is as the end of `known`; none if there is none."""
        ids = list(known)
        for length in self._lengths:
            wanted = ids[-length:]
            for place in range(len(ids) - length - 1, -1, -1):
                if ids[place : place + length] == wanted:
                    return ids[place + length :][:most]
        return []


def _alike(fed: Sequence[int], known: Sequence[int]) -> int:
    """How many tokens from the first on are the same."""
    pairs = zip(fed, known, strict=False)
    return next(
        (n for n, (a, b) in enumerate(pairs) if a != b), min(len(fed), len(known))
    )


__all__ = ["LookupDraft", "ModelDraft"]
