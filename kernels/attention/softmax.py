"""Softmax as a block monoid: what one key contributes, how contributions join, what is made of all.

A variant that changes only a part of it takes the others from here:

```python
from kernels import attention, masks
from kernels.attention import softmax

def finish(state, b, h, q, d):
    return state.output / (state.total + jnp.exp(-state.greatest))

off_by_one = attention.monoid(finish=finish, mask=masks.causal, name="off_by_one")
```
"""

from typing import Any, NamedTuple

import jax.numpy as jnp


class State(NamedTuple):
    """What one query knows of some keys, for one feature of the values.

    Attributes:
      greatest: of the scores.
      total: sum of the weights `exp(score - greatest)`.
      output: sum of the weighted values.
    """

    greatest: Any
    total: Any
    output: Any


def partial(s: Any, v: Any, b: Any, h: Any, q: Any, k: Any) -> State:
    """What one key contributes: a weight of 1, as its score is the greatest that was seen.

    Args:
      s: its score, scaled and as the variant's score function makes it.
      v: one feature of its value.
      b, h, q, k: batch, head and positions of query and key.
    """
    return State(greatest=s, total=jnp.ones_like(s), output=v)


def merge(one: State, other: State) -> State:
    """Two contributions as one: both weigh against the greater of the two scores."""
    greatest = jnp.maximum(one.greatest, other.greatest)
    of_one = jnp.exp(one.greatest - greatest)
    of_other = jnp.exp(other.greatest - greatest)
    return State(
        greatest=greatest,
        total=one.total * of_one + other.total * of_other,
        output=one.output * of_one + other.output * of_other,
    )


def finish(state: State, b: Any, h: Any, q: Any, d: Any) -> Any:
    """Feature `d` of attention's output."""
    return state.output / state.total


__all__ = ["State", "finish", "merge", "partial"]
