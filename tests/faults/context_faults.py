"""Faults of attention over chips: sizes, masks, placements, systems, operands."""

# What is given here is of the wrong type on purpose.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from emu.trainium import TRN2, TRN3, TRN3_GEN2, on_system
from kernels import ContextAttention, LatentAttention, masks
from kernels.tokens.placement import place
from tests.faults.fault import Fault, Faults

SIZES: dict[str, Any] = dict(
    mask=masks.causal, tokens=64, ranks=4, heads=2, kv_heads=1, head_dim=8
)
RACK = on_system(TRN3, TRN3_GEN2)
WHOLE = "must be a whole number"


def attends(**change: Any):
    """Reads the clock of attention with other sizes."""
    return lambda: ContextAttention(**(SIZES | change)).read(RACK.at())


def masked(mask: Any):
    return attends(mask=mask)


def runs(q: Any, k: Any = None, v: Any = None):
    """Runs attention on queries, keys and values."""
    whole = np.ones((64, 1, 8), np.float32)
    keys = whole if k is None else k
    values = whole if v is None else v
    return lambda: ContextAttention(**SIZES).run(q, keys, values)


def ones(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


def raises(b, h, q, k):
    return 1 / 0


def branches(b, h, q, k):
    return True if q > k else False


def loops(b, h, q, k):
    return lax.while_loop(lambda i: i < q, lambda i: i + 1, 0) > k


def draws(b, h, q, k):
    return jax.random.uniform(jax.random.key(0)) > 0.5


QUERIES = ones(64, 2, 8)
FAULTS: Faults = {
    # --- sizes ---
    "0 tokens": Fault(attends(tokens=0), f"tokens is 0, {WHOLE} from 1 to"),
    "-64 tokens": Fault(attends(tokens=-64), f"tokens is -64, {WHOLE}"),
    "64.5 tokens": Fault(attends(tokens=64.5), "tokens is 64.5"),
    "NaN tokens": Fault(attends(tokens=float("nan")), "tokens is nan"),
    "'64' tokens": Fault(attends(tokens="64"), "tokens is '64'"),
    "True tokens": Fault(attends(tokens=True), "tokens is True"),
    "2^32 tokens": Fault(
        attends(tokens=2**32), "tokens is 4294967296, .* from 1 to 2147483647"
    ),
    "10^30 tokens": Fault(attends(tokens=10**30), "tokens is 1000000000000000000000"),
    "0 ranks": Fault(attends(ranks=0), f"ranks is 0, {WHOLE}"),
    "-1 ranks": Fault(attends(ranks=-1), f"ranks is -1, {WHOLE}"),
    "10^6 ranks": Fault(attends(ranks=10**6), "ranks is 1000000, .* from 1 to 1024"),
    "145 ranks of 144": Fault(
        attends(ranks=145, tokens=145 * 16), "145 chips, at most 144", line=False
    ),
    "3 heads over 2": Fault(
        attends(heads=3, kv_heads=2), "query heads by KV heads: 3 by 2, must divide"
    ),
    "0 heads": Fault(attends(heads=0), f"heads is 0, {WHOLE}"),
    "0 KV heads": Fault(attends(kv_heads=0), f"kv heads is 0, {WHOLE}"),
    "10^9 heads": Fault(
        attends(heads=10**9, kv_heads=10**9), "heads is 1000000000, .* from 1 to"
    ),
    "head_dim 0": Fault(attends(head_dim=0), "head dim is 0"),
    "head_dim -8": Fault(attends(head_dim=-8), "head dim is -8"),
    "head_dim 10^9": Fault(attends(head_dim=10**9), "head dim is 1000000000"),
    "value_dim 0": Fault(attends(value_dim=0), "value dim is 0"),
    "value_dim 513": Fault(
        attends(value_dim=513), "value dim is 513, .* from 1 to 512"
    ),
    "parts that do not add up": Fault(
        attends(parts=(3, 3)), r"parts are \(3, 3\), must add up to head_dim 8"
    ),
    "a part of 200": Fault(
        attends(head_dim=200, parts=(200,)), r"parts are \(200,\), .* at most 128"
    ),
    "a part by number": Fault(attends(parts=8), "parts is 8, must be whole numbers"),
    "no parts": Fault(attends(parts=()), r"parts are \(\), must add up to head_dim 8"),
    "0 queries": Fault(attends(queries=0), "queries is 0"),
    "65 queries": Fault(
        attends(queries=65), "65 queries of 64 tokens, must be 1 to all"
    ),
    "0 columns": Fault(attends(columns=0), "columns is 0"),
    "1024 columns": Fault(attends(columns=1024), "columns is 1024, .* from 1 to 512"),
    "0 lanes": Fault(attends(lanes=0), "lanes is 0"),
    "10^9 lanes": Fault(attends(lanes=10**9), "lanes is 1000000000, .* from 1 to"),
    "3 cores of 1 KV head": Fault(
        attends(cores=3), "KV heads by cores of a rank: 1 by 3, must divide"
    ),
    "inner 3 of 4": Fault(
        attends(scheme="tiles", inner=3), "ranks by inner ranks: 4 by 3, must divide"
    ),
    "inner 0": Fault(attends(scheme="tiles", inner=0), "inner is 0"),
    "0 masks": Fault(attends(masks=0), "masks is 0"),
    "fewer masks than there are": Fault(
        lambda: ContextAttention(**(SIZES | dict(masks=1, mask=masks.window(5)))).run(
            QUERIES, ones(64, 1, 8), ones(64, 1, 8)
        ),
        r"masks is 1, must be \d+ or more",
    ),
    "-1 copies by the Scalar Engine": Fault(
        attends(scalar_copies=-1), f"scalar copies is -1, {WHOLE} of 0 or more"
    ),
    "hops of NaN": Fault(
        attends(hop_tiles=float("nan")),
        "hop tiles is nan, must be a number of 0 or more",
    ),
    "hops of -1": Fault(attends(hop_tiles=-1.0), "hop tiles is -1.0, must be a number"),
    "hops in words": Fault(
        attends(hop_tiles="1"), "hop tiles is '1', must be a number"
    ),
    # --- words ---
    "an unknown scheme": Fault(
        attends(scheme="star"), "scheme is 'star', must be one of ring, all-gather"
    ),
    "a scheme by number": Fault(attends(scheme=2), "scheme is 2, must be one of ring"),
    "a list of schemes": Fault(attends(scheme=["ring"]), r"scheme is \['ring'\], must"),
    "an unknown placement": Fault(
        attends(placement="spiral"),
        "placement is 'spiral', must be one of contiguous, zigzag",
    ),
    "no placement": Fault(attends(placement=None), "placement is None, must be one of"),
    "an unknown recipe": Fault(
        attends(recipe="fp8"), "recipe is 'fp8', must be one of fp32, bf16-o"
    ),
    "overlap in words": Fault(
        attends(overlap="no"), "overlap is 'no', must be True or False"
    ),
    "one program by number": Fault(
        attends(static_program=1), "static program is 1, must be True or False"
    ),
    # --- dtypes ---
    "int32": Fault(attends(dtype=jnp.int32), "dtype is int32, must be one of float32"),
    "float64": Fault(attends(dtype="float64"), "dtype is float64.*`exact` computes"),
    "an unknown dtype": Fault(
        attends(dtype="floaty"), "dtype is floaty, must be one of"
    ),
    "dtype None": Fault(attends(dtype=None), "dtype is None, must be one of float32"),
    "turned to integers": Fault(
        attends(turned=jnp.int32), "turned is int32, must be one of float32, bfloat16"
    ),
    "MX of a key of 8": Fault(attends(dtype="mxfp8"), ".*8.*"),
    # --- masks ---
    "no mask": Fault(masked(None), "mask is None, must be a function"),
    "a mask by number": Fault(masked(5), "mask is 5, must be a function"),
    "a mask by name": Fault(masked("causal"), "mask is 'causal', must be a function"),
    "a mask of two positions": Fault(
        masked(lambda q, k: k <= q),
        "takes 2 positional arguments but 4 were given",
        line=False,
    ),
    "a mask of numbers": Fault(
        masked(lambda b, h, q, k: q - k), "returns int32.., not one bool", line=False
    ),
    "a mask of two": Fault(
        masked(lambda b, h, q, k: (q > k, q < k)),
        r"gives values of shapes \[\(\), \(\)\], must give one scalar",
    ),
    "a mask of an array": Fault(
        masked(lambda b, h, q, k: jnp.arange(3) < q),
        r"gives values of shapes \[\(3,\)\], must give one scalar",
    ),
    "a mask that returns nothing": Fault(
        masked(lambda b, h, q, k: None),
        r"gives values of shapes \[\], must give one scalar",
    ),
    "a mask that raises": Fault(masked(raises), "raises ZeroDivisionError"),
    "a mask that branches": Fault(masked(branches), "asks whether a value is true"),
    "a mask with a loop": Fault(masked(loops), "no rule for while"),
    "a mask by chance": Fault(
        masked(draws),
        "mask draws: random_seed of key.*, masks compute|mask draws: .*; masks compute on",
    ),
    "a mask of sines": Fault(
        masked(lambda b, h, q, k: jnp.sin(q.astype(jnp.float32)) > 0),
        "masks compute on int32 and bool",
    ),
    "a window of 0": Fault(
        lambda: masks.window(0), "is 0, must be a whole number of 1 or more"
    ),
    "a window of 2.5": Fault(lambda: masks.window(2.5), "is 2.5, must be a whole"),
    "documents of no tokens": Fault(lambda: masks.documents([3, 0]), "0"),
    # --- operands ---
    "63 queries of 64": Fault(
        runs(ones(63, 2, 8)), r"q is \[63, 2, 8\], must be \[64, 2, 8\]"
    ),
    "three heads of 2": Fault(runs(ones(64, 3, 8)), r"q is \[64, 3, 8\], must be"),
    "queries of 9 features": Fault(runs(ones(64, 2, 9)), r"q is \[64, 2, 9\], must be"),
    "queries of two dimensions": Fault(runs(ones(64, 16)), r"q is \[64, 16\], must be"),
    "queries of integers": Fault(
        runs(ones(64, 2, 8, dtype=np.int32)), "q is int32, must be floats"
    ),
    "queries of words": Fault(runs("q"), "q is 'q', must be an array"),
    "complex queries": Fault(
        runs(ones(64, 2, 8, dtype=np.complex64)), "q is complex64, must be floats"
    ),
    "no queries": Fault(runs(None), "q is None, must be an array"),
    "keys of two heads": Fault(
        runs(QUERIES, ones(64, 2, 8)), r"k is \[64, 2, 8\], must be \[64, 1, 8\]"
    ),
    "values of 63 tokens": Fault(
        runs(QUERIES, None, ones(63, 1, 8)), r"v is \[63, 1, 8\], must be \[64, 1, 8\]"
    ),
    # --- machines ---
    "a datasheet for a machine": Fault(
        lambda: ContextAttention(**SIZES).read(RACK),
        "device is the datasheet of Trainium3",
        line=False,
    ),
    "an unknown option": Fault(
        lambda: ContextAttention(**SIZES).read(TRN2.at(), trace_core=(9,)),
        "place on axis .* is 9, .* from 0 to 3",
        line=False,
    ),
    "hops of a scheme that has none": Fault(
        lambda: ContextAttention(**(SIZES | dict(scheme="all-gather"))).hops,
        "all-gather has no ring, and so no hops",
    ),
    # --- placements ---
    "a placement by hand": Fault(
        lambda: place("spiral", 64, 4, 16, 1), "placement is 'spiral', must be one of"
    ),
    "a placement of no tokens": Fault(lambda: place("striped", 0, 4, 16, 1), "tokens"),
    "a placement of too few slots": Fault(
        lambda: place("striped", 64, 4, 8, 1), "32|slots"
    ),
    # --- latent attention ---
    "a latent of no parts": Fault(
        lambda: LatentAttention(
            attention=ContextAttention(**(SIZES | dict(kv_heads=SIZES["heads"]))),
            latent=4,
        ),
        "parts are None",
    ),
}
