"""How often draft tokens are right, measured on numbers: small drafts, lookups in the text.

Greedy decoding accepts a draft token where it is the model's own next token behind tokens that are
the model's own. So the model's answer is generated once, the draft is asked for its next token
behind every part of it, all at once, and rounds are gone through on what it said.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax.numpy as jnp
import numpy as np

from experiments.quickstart.text import TEXT
from models.loading.load import Loaded
from models.plain.held import held_weights
from models.plain.oracle import generate
from models.plain.transformer import forward, from_weights
from models.plain.weights import Weights
from models.precision import precision
from models.serving.drafts import LookupDraft

DRAFTS = ("mxfp8", "int4", "mxfp4")
"""The model itself with its weights in these, a quarter to a half of its bytes in bfloat16."""

LOOKUP = "lookup"
PROMPTS = 3  # parts of the text, each of them to be gone on with
PROMPT_TOKENS = 24

Proposals = Callable[[Sequence[int], int], Sequence[int]]
"""Of the known tokens and how many at most: what a draft proposes behind them."""


@dataclasses.dataclass(frozen=True)
class Acceptance:
    """One draft on all texts.

    Attributes:
      model, draft: their names.
      ahead: draft tokens a round at the most.
      tokens: that the rounds gave.
      rounds: gone through.
      proposed, accepted: draft tokens that were looked at, and of them the right ones. Behind a
        wrong one nobody looks.
    """

    model: str
    draft: str
    ahead: int
    tokens: int
    rounds: int
    proposed: int
    accepted: int

    @property
    def rate(self) -> float:
        """The share of right ones among those that were looked at; 0: there were none."""
        return self.accepted / self.proposed if self.proposed else 0.0

    @property
    def tokens_a_round(self) -> float:
        """On average."""
        return self.tokens / self.rounds


def measured(
    model: Loaded, ahead: Sequence[int], new_tokens: int
) -> Iterator[Acceptance]:
    """Every draft with every number of draft tokens a round.

    Args:
      model: whose text is proposed.
      ahead: draft tokens a round.
      new_tokens: of each answer.
    """
    plain = from_weights(model.config, model.weights)
    answers = []
    for prompt in prompts(model):
        tokens, _ = generate(plain, prompt, new_tokens)
        answers.append((len(prompt), [*prompt, *tokens]))
    for name in DRAFTS:
        plan = precision(f"weights={name},cache=bfloat16")
        held = held_weights(model.config, model.weights, plan)
        said = [next_tokens(model, held, ids) for _, ids in answers]
        drafts = [_saying(each) for each in said]
        for most in ahead:
            yield _of_answers(model.config.name, name, most, answers, drafts)
    lookup: list[Proposals] = [LookupDraft().proposed for _ in answers]
    for most in ahead:
        yield _of_answers(model.config.name, LOOKUP, most, answers, lookup)


def prompts(model: Loaded) -> list[list[int]]:
    """Parts of the text, one behind the other."""
    ids = model.tokenizer.encode(TEXT)
    return [
        ids[start : start + PROMPT_TOKENS]
        for start in range(0, PROMPTS * PROMPT_TOKENS, PROMPT_TOKENS)
    ]


def next_tokens(model: Loaded, held: Weights, ids: Sequence[int]) -> list[int]:
    """What the draft says behind each of the tokens."""
    logits = forward(model.config, held, jnp.asarray([ids], jnp.int32))
    return [int(token) for token in np.asarray(logits)[0].argmax(axis=-1)]


def _saying(said: Sequence[int]) -> Proposals:
    """Proposals of what was said behind the model's own tokens: right as far as they are looked at.

    Behind a wrong one the draft would say something else, which nobody would look at.
    """
    return lambda known, most: said[len(known) - 1 :][:most]


def _of_answers(
    model: str,
    draft: str,
    ahead: int,
    answers: Sequence[tuple[int, Sequence[int]]],
    drafts: Sequence[Proposals],
) -> Acceptance:
    """Rounds through all answers; each draft is of one."""
    rounds = proposed = accepted = tokens = 0
    for (prompt, ids), proposals in zip(answers, drafts, strict=True):
        # The first token behind the prompt is prefill's.
        known = prompt + 1
        tokens += len(ids) - known
        while known < len(ids):
            rounds += 1
            most = min(ahead, len(ids) - known - 1)
            for token in proposals(ids[:known], most):
                proposed += 1
                if token != ids[known]:
                    break
                accepted += 1
                known += 1
            # The model's own, behind the last right one.
            known += 1
    return Acceptance(model, draft, ahead, tokens, rounds, proposed, accepted)


__all__ = ["Acceptance", "measured"]
