"""A block monoid by its own functions, for every pair: what its fold and all machines are held to.

Nothing that was read off the functions is used: they are called as they are, and the keys' states
merged in pairs, these in pairs again, and so on, of five keys

    0   1   2   3   4
     0 1     2 3    4
       0 1 2 3      4
         0 1 2 3 4
"""

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from kernels.attention.monoid import Monoid

State: TypeAlias = Any
"""A user's state, of arrays `[keys, features]`."""

# Rows of the scores at a time: states of all pairs and features at once would fill the memory.
_ROWS = 64


def attend(
    scores: jax.Array,
    attended: jax.Array,
    values: jax.Array,
    *,
    monoid: Monoid,
    first: int,
    starts_at_zero: bool,
) -> jax.Array:
    """A monoid's output; differentiable, also in the arrays that its functions hold.

    Args:
      scores: as the variant's score function makes them, `[batch, heads, queries, keys]`.
      attended: whether a pair is, likewise.
      values: `[batch, heads, keys, features]`.
      monoid: the functions.
      first: position of the first query.
      starts_at_zero: whether of no key there is a state, of zeros.

    Returns:
      `[batch, heads, queries, features]`. Where a query attends to nothing it is 0, or what is
      finished of zeros.
    """
    *sizes, keys = scores.shape
    b, h, row = jnp.indices(sizes, dtype=jnp.int32).reshape(3, -1)
    # A key that is not attended to never reaches `partial`; a number stands in.
    safe = jnp.where(attended, scores, 0).reshape(-1, keys)
    features = jnp.arange(values.shape[-1], dtype=jnp.int32)
    positions = jnp.arange(keys, dtype=jnp.int32)

    def of_row(operands: tuple[jax.Array, ...]) -> jax.Array:
        b, h, row, s, live = operands
        q = row + jnp.int32(first)

        def partial(s: jax.Array, k: jax.Array, v: jax.Array) -> State:
            state = monoid.partial(s, v, b, h, q, k)
            return jax.tree.map(lambda x: jnp.asarray(x).astype(s.dtype), state)

        def finish(state: State, d: jax.Array) -> jax.Array:
            return jnp.asarray(monoid.finish(state, b, h, q, d)).astype(s.dtype)

        of_features = jax.vmap(partial, in_axes=(None, None, 0))
        states = jax.vmap(of_features)(s, positions, values[b, h])
        state, any_live = _merged(states, live, monoid)
        if starts_at_zero:
            state = jax.tree.map(lambda x: jnp.where(any_live, x, 0), state)
        out = jax.vmap(finish)(state, features)
        return out if starts_at_zero else jnp.where(any_live, out, 0)

    rows = b, h, row, safe, attended.reshape(-1, keys)
    # A user's arithmetic mixes integers and floats, whatever the program around it allows.
    with jax.numpy_dtype_promotion("standard"):
        out = jax.lax.map(of_row, rows, batch_size=min(_ROWS, len(b)))
    return out.reshape(*sizes, -1)


def _merged(states: State, live: jax.Array, monoid: Monoid) -> tuple[State, jax.Array]:
    """The state `[features]` of those keys that are `live`, and whether any is."""
    of_features = jax.vmap(monoid.merge)
    merge = jax.vmap(of_features)

    def choose(where: jax.Array, yes: State, no: State) -> State:
        return jax.tree.map(lambda x, y: jnp.where(where[:, None], x, y), yes, no)

    while len(live) > 1:
        paired = len(live) // 2 * 2
        is_one, is_other = live[:paired:2], live[1:paired:2]
        one = jax.tree.map(lambda x, end=paired: x[:end:2], states)
        other = jax.tree.map(lambda x, end=paired: x[1:end:2], states)
        # Where only one is live it is merged with itself, for a finite gradient, and not taken.
        both = merge(choose(is_one, one, other), choose(is_other, other, one))
        either = choose(is_one, one, other)
        made = choose(is_one & is_other, both, either)
        # Of an odd number the last waits.
        states = jax.tree.map(
            lambda x, y, end=paired: jnp.concatenate([x, y[end:]]), made, states
        )
        live = jnp.concatenate([is_one | is_other, live[paired:]])
    return jax.tree.map(lambda x: x[0], states), live[0]


__all__ = ["attend"]
