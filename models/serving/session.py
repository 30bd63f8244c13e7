"""One user's answer: tokens one by one, or in rounds with draft tokens behind the last known one.

In a round the last known token enters the pipeline, and behind it, as they come, up to k tokens
that a draft proposes. What leaves is the model's own next token behind each. As long as that is the
one proposed, the next to leave is right too; the first that is not ends the round, and is the last
known token of the next one. With k = 3, where the model says `the cat sat on` behind `see`:

    enters    see   the   cat   lay
    leaves    the   cat   sat   (behind `lay`: for nobody)

Three tokens are known for one trip, and `sat` enters. Tokens are those of plain greedy decoding
whatever a draft proposes. If each proposal is right with probability a, a round gives
`1 + a + ... + a^k = (1 - a^(k+1)) / (1 - a)` tokens on average. Without a draft, k = 0.

What was proposed in vain passes through all the same, in front of the next round's tokens.
"""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from models.serving.agenda import Agenda
from models.serving.seat import Seat


class Draft(Protocol):
    """Proposes tokens."""

    @property
    def resting(self) -> bool:
        """Whether nothing of it is under way."""
        ...

    def on_rest(self, rested: Callable[[], None]) -> None:
        """Has `rested` called whenever something of it is over."""
        ...

    def begin(
        self, known: Sequence[int], most: int, offer: Callable[[int], None]
    ) -> None:
        """Starts anew behind the known tokens; what was under way is not offered any more.

        Args:
          known: the prompt and all tokens since.
          most: tokens to propose.
          offer: called with each, in order, now or later.
        """
        ...


@dataclasses.dataclass
class Counts:
    """What rounds came to.

    Attributes:
      rounds: begun.
      proposed: draft tokens that entered the model's pipeline.
      accepted: of these, the model's own.
    """

    rounds: int = 0
    proposed: int = 0
    accepted: int = 0


class Session:
    """One user's tokens.

    Attributes:
      known: the prompt and all tokens since.
      made: tokens so far, the first by prefill.
      made_at: the cycle at which each was known.
      counts: of rounds.
    """

    def __init__(
        self,
        agenda: Agenda,
        seat: Seat,
        prompt: Sequence[int],
        first: int,
        tokens: int,
        over: Callable[["Session"], None],
        draft: Draft | None = None,
        ahead: int = 0,
        stops: Collection[int] = (),
    ):
        """An answer whose prompt is in the cache.

        Args:
          agenda: of all.
          seat: in the model's pipeline.
          prompt: token ids.
          first: the token behind it, by prefill.
          tokens: to make, the first included.
          over: called when all are made and nothing of the user is under way any more.
          draft: proposes tokens; None: nobody does.
          ahead: tokens to propose in a round.
          stops: after any of these the answer ends.
        """
        if tokens < 1 or ahead < 0 or not prompt:
            raise ValueError(
                f"{tokens} tokens behind a prompt of {len(prompt)} with {ahead} ahead; must be at "
                "least 1, 1 and 0"
            )
        self.known = [*prompt, first]
        self.made = [first]
        self.made_at = [agenda.now]
        self.counts = Counts()
        self._agenda = agenda
        self._seat = seat
        seat.rested = self.rest
        self._tokens = tokens
        self._over = over
        self._draft = draft
        if draft is not None:
            draft.on_rest(self.rest)
        self._ahead = ahead
        self._stops = frozenset(stops)
        # Of this round: what entered at each position.
        self._entered: dict[int, int] = {}

    def begin(self) -> None:
        """Starts behind the first token, now."""
        if self._is_complete:
            self.rest()
        else:
            self._begin_round()

    @property
    def _is_complete(self) -> bool:
        return len(self.made) == self._tokens or self.made[-1] in self._stops

    def _begin_round(self) -> None:
        self.counts.rounds += 1
        self._entered = {}
        self._enter(self.known[-1], len(self.known) - 1)
        # The round's last token is the model's own: there is one fewer to propose.
        most = min(self._ahead, self._tokens - len(self.made) - 1)
        if self._draft is None or most < 1:
            return
        number = self.counts.rounds

        def offer(token: int) -> None:
            if number == self.counts.rounds and not self._is_complete:
                self.counts.proposed += 1
                self._enter(token, max(self._entered) + 1)

        self._draft.begin(tuple(self.known), most, offer)

    def _enter(self, token: int, position: int) -> None:
        self._entered[position] = token
        number = self.counts.rounds

        def made(position: int, token: int) -> None:
            # A round that is over, or an answer: it entered in vain.
            if number == self.counts.rounds and not self._is_complete:
                self._take(token)

        self._seat.submit(position, token, made)

    def _take(self, token: int) -> None:
        """The model's next token is known."""
        place = len(self.known)
        self.known.append(token)
        self.made.append(token)
        self.made_at.append(self._agenda.now)
        agreed = self._entered.get(place) == token
        self.counts.accepted += agreed
        if not self._is_complete and not agreed:
            self._begin_round()

    def rest(self) -> None:
        """Tells that all is over, if it is."""
        resting = self._draft is None or self._draft.resting
        if self._is_complete and resting and not self._seat.in_flight:
            over, self._over = self._over, lambda session: None
            over(self)


__all__ = ["Counts", "Draft", "Session"]
