"""A block monoid by its own functions, for every pair: what its fold and all machines are held to.

Nothing that was read off the functions is used: they are called as they are, and the keys' states
merged in pairs, these in pairs again, and so on, of five keys

    0   1   2   3   4
     0 1     2 3    4
       0 1 2 3      4
         0 1 2 3 4
"""

import functools
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from kernels.attention.monoid import Monoid

State: TypeAlias = Any
"""A user's state, of arrays `[keys, features]`."""

Found: TypeAlias = tuple[State, jax.Array]
"""The state of some keys, `[batch, heads, queries, features]`, and whether a query attends to any,
`[batch, heads, queries]`."""

Indices: TypeAlias = Sequence[jax.Array]
"""Of sequences, heads, queries and keys: int32, a number for each."""

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
    b, h, q, k = (jnp.arange(n, dtype=jnp.int32) for n in scores.shape)
    indices = [b, h, q + jnp.int32(first), k]
    found = state_of(scores, attended, values, indices, monoid=monoid)
    return finished(found, indices, monoid=monoid, starts_at_zero=starts_at_zero)


def state_of(
    scores: jax.Array,
    attended: jax.Array,
    values: jax.Array,
    indices: Indices,
    *,
    monoid: Monoid,
) -> Found:
    """The state of some of the keys; arguments as for `attend`.

    Args:
      scores, attended, values: of these keys.
      indices: int32, of sequences `[batch]`, heads `[heads]`, queries `[queries]` and these keys
        `[keys]`.
      monoid: the functions.
    """
    *sizes, keys = scores.shape
    batch, heads, queries, positions = indices
    sequence, head, row = jnp.indices(sizes, dtype=jnp.int32).reshape(3, -1)
    # A key that is not attended to never reaches `partial`; a number stands in.
    safe = jnp.where(attended, scores, 0).reshape(-1, keys)

    def of_row(operands: tuple[jax.Array, ...]) -> tuple[State, jax.Array]:
        sequence, head, row, s, live = operands
        b, h, q = batch[sequence], heads[head], queries[row]

        def partial(s: jax.Array, k: jax.Array, v: jax.Array) -> State:
            state = monoid.partial(s, v, b, h, q, k)
            return jax.tree.map(lambda x: jnp.asarray(x).astype(s.dtype), state)

        of_features = jax.vmap(partial, in_axes=(None, None, 0))
        states = jax.vmap(of_features)(s, positions, values[sequence, head])
        return _merged(states, live, monoid)

    rows = sequence, head, row, safe, attended.reshape(-1, keys)
    # A user's arithmetic mixes integers and floats, whatever the program around it allows.
    with jax.numpy_dtype_promotion("standard"):
        state, live = jax.lax.map(of_row, rows, batch_size=min(_ROWS, len(sequence)))
    state = jax.tree.map(lambda x: x.reshape(*sizes, -1), state)
    return state, live.reshape(sizes)


def joined(one: Found, other: Found, *, monoid: Monoid) -> Found:
    """The state of the keys of both."""

    def pairs(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.stack([x, y]).reshape(2, -1)

    states = jax.tree.map(pairs, one[0], other[0])
    shape = jax.tree.leaves(one[0])[0].shape
    live = jnp.broadcast_to(jnp.stack([one[1], other[1]])[..., None], (2, *shape))
    of_one = functools.partial(_merged, monoid=monoid)

    def merged(state: State, live: jax.Array) -> tuple[State, jax.Array]:
        return of_one(jax.tree.map(lambda x: x[:, None], state), live)

    with jax.numpy_dtype_promotion("standard"):
        state, _ = jax.vmap(merged, in_axes=(1, 1))(states, live.reshape(2, -1))
    return jax.tree.map(lambda x: x.reshape(shape), state), one[1] | other[1]


def finished(
    found: Found, indices: Indices, *, monoid: Monoid, starts_at_zero: bool
) -> jax.Array:
    """The output of the state of all keys; see `attend`."""
    state, live = found
    if starts_at_zero:
        state = jax.tree.map(lambda x: jnp.where(live[..., None], x, 0), state)
    shape = jax.tree.leaves(state)[0].shape
    sequence, head, row, d = jnp.indices(shape, dtype=jnp.int32).reshape(4, -1)
    batch, heads, queries, _ = indices

    def finish(state: State, *at: jax.Array) -> jax.Array:
        dtype = jax.tree.leaves(state)[0].dtype
        return jnp.asarray(monoid.finish(state, *at)).astype(dtype)

    flat = jax.tree.map(lambda x: x.reshape(-1), state)
    with jax.numpy_dtype_promotion("standard"):
        of_all = jax.vmap(finish)
        out = of_all(flat, batch[sequence], heads[head], queries[row], d)
    out = out.reshape(shape)
    return out if starts_at_zero else jnp.where(live[..., None], out, 0)


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


__all__ = ["Found", "attend", "finished", "joined", "state_of"]
