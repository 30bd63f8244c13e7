"""An attention variant of one's own: one function, an oracle, two machines, and what each costs."""

# %% variant
import textwrap

import jax.numpy as jnp
import numpy as np

from kernels import attention, masks


@attention(mask=masks.window(1024))
def capped(s, b, h, q, k):
    """Soft-capped scores with a penalty by distance, within a causal window."""
    return 30 * jnp.tanh(s / 30) - 0.01 * (q - k)


# %% explain
print(capped.explain(tokens=16384, chips=8, heads=4))

# %% time
sizes = {"tokens": 16384, "chips": 8, "heads": 4, "kv_heads": 1, "head_dim": 128}
print(capped.time(**sizes))


@attention(mask=masks.window(1024))
def plain(s, b, h, q, k):
    return s


print(plain.time(**sizes))

# %% values
random = np.random.default_rng(0)
q = random.standard_normal((1, 4, 64, 16))  # [batch, heads, tokens, features]
k = random.standard_normal((1, 2, 64, 16))
v = random.standard_normal((1, 2, 64, 16))
q, k, v = (x.astype(np.float32) for x in (q, k, v))
dense, _ = capped.dense(q, k, v)  # every pair at once, in float64
exact = np.asarray(dense)


def error(given, wanted):
    return np.abs(np.asarray(given, np.float64) - wanted).max() / np.abs(v).max()


prefilled, _ = capped.prefill(q, k, v, chips=2, columns=16)
decoded, _ = capped.decode(q[:, :, -1:], (k, v))
print(f"prefill on 2 chips: error {error(prefilled, exact):.1e}")
print(f"decode on a wafer: error {error(decoded, exact[:, :, -1:]):.1e}")

# %% finish


def finish(state, b, h, q, d):
    """As if there were one key more, of score 0 and value 0: a query may attend to nothing."""
    return state.output / (state.total + jnp.exp(-state.greatest))


off_by_one = attention.monoid(finish=finish, mask=masks.window(1024), name="off_by_one")
print(off_by_one.time(**sizes))

# %% monoid


def partial(s, v, b, h, q, k):
    """What one key contributes: its value, weighed by itself and not against the others."""
    return v / (1 + jnp.exp(-s))


def merge(one, other):
    return one + other


def whole(state, b, h, q, d):
    return state


sigmoid = attention.monoid(
    partial=partial,
    merge=merge,
    finish=whole,
    mask=masks.window(1024),
    name="sigmoid",
)
print(sigmoid.time(**sizes))
print(sigmoid.check(tokens=12, chips=(2,), placements=("zigzag",)))

# %% not_associative


def mean(one, other):
    return (one + other) / 2


try:
    attention.monoid(partial=partial, merge=mean, finish=whole).reading  # noqa: B018
except Exception as refusal:
    print(textwrap.fill(str(refusal), 88))

# %% refused


@attention
def by_score(s, b, h, q, k):
    return jnp.where(s > 0, s, -jnp.inf)


try:
    by_score.reading  # noqa: B018
except Exception as refusal:
    print(textwrap.fill(str(refusal), 88))
