"""Ring attention of sizes that fit nothing, and of the hops that a mask really has."""

import pytest

from kernels import masks
from kernels.trainium.context.hops import Hops
from tests.kernels.trainium.context.oracle import assert_attends, context, masks_of

WINDOW = dict(mask=masks.window(5), tokens=50, ranks=7, placement="contiguous")
SINKS = dict(mask=masks.sinks(3, 6), tokens=53, ranks=7, placement="contiguous")

# Of a case: sizes, how many hops are live, how many key tiles are replicated.
CASES = {
    "fewer tokens than ranks, MHA": (
        dict(tokens=3, ranks=8, heads=5, kv_heads=5, lanes=1),
        3,
        0,
    ),
    # Hops 3 to 6 are live for the sinks alone; their one tile is sent to all instead.
    "replicated sinks, one KV head": (SINKS | dict(heads=3, kv_heads=1, lanes=1), 2, 1),
    "three pieces": (
        dict(tokens=301, ranks=1, columns=301, lanes=3, heads=2, kv_heads=1),
        1,
        0,
    ),
    "two cores, head_dim of two parts": (
        dict(
            mask=masks_of(61)["documents"],
            cores=2,
            ranks=2,
            head_dim=192,
            value_dim=40,
            lanes=1,
        ),
        2,
        0,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_hops_and_values(name):
    sizes, hops, replicated = CASES[name]
    a = context(**sizes)
    found = a.built.tables
    assert isinstance(found, Hops)
    assert (len(found), len(found.roots)) == (hops, replicated)
    assert_attends(a)


SEVERAL = {
    "dead hops": WINDOW | dict(heads=3, kv_heads=1),
    "all keys of other ranks dead": dict(
        mask=masks.dilated(3), ranks=3, placement="striped"
    ),
    "three pieces on a ring": dict(
        tokens=601, ranks=2, columns=301, lanes=4, placement="zigzag"
    ),
    "pieces, head_dim of two parts": dict(
        tokens=601,
        ranks=3,
        heads=6,
        kv_heads=3,
        head_dim=192,
        value_dim=130,
        columns=301,
    ),
    "replicated sinks, MHA": SINKS | dict(heads=5, kv_heads=5),
    "three cores": WINDOW | dict(heads=6, kv_heads=3, cores=3),
    "whole heads of two KV heads": dict(lanes=8, ranks=3),
    "in turn, one program": dict(overlap=False, static_program=True, ranks=3),
    "unrolled": dict(unroll=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("name", SEVERAL)
def test_larger(name, exact):
    assert_attends(context(**SEVERAL[name]), exact=exact)
