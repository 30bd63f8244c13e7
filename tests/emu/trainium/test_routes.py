"""Ways between chips walked one link at a time, rings of neighbours, and what shared links cost."""

import collections
import dataclasses
import itertools

import numpy as np
import pytest

from emu import Quantity
from emu.errors import LimitExceeded
from emu.trainium.datasheets import (
    SYSTEMS,
    TRN1,
    TRN2,
    TRN2_48XLARGE,
    TRN2_ULTRASERVER,
    TRN3,
    TRN3_GEN1,
    TRN3_GEN2,
    on_system,
)
from emu.trainium.links.routes import cycle, embedding, routed, shifted

EVERY = pytest.mark.parametrize("system", SYSTEMS, ids=lambda s: s.name)
SHEETS = {sheet.generation: sheet for sheet in (TRN1, TRN2, TRN3)}
UNIT = Quantity(1.0, "published", "one byte a second")


def torus(*dims):
    return dataclasses.replace(
        TRN2_48XLARGE, dims=dims, link_bytes_per_s=(UNIT,) * len(dims)
    )


# --- rings of neighbours ---


def hops_along(system, chips, axis):
    """Hops between neighbours on an axis of an embedding, wrap-around included."""
    pairs = zip(chips.ravel(), np.roll(chips, -1, axis).ravel(), strict=True)
    return {system.hops(int(a), int(b)) for a, b in pairs}


@EVERY
def test_one_axis_is_a_ring_of_all_chips(system):
    chips = embedding(system, (system.chips,))
    assert sorted(chips) == list(range(system.chips))
    assert hops_along(system, chips, 0) == {1}


@pytest.mark.parametrize("dims", [(2, 3), (3, 4), (3, 2, 5), (5, 3, 4), (6,), (1, 4)])
def test_a_ring_needs_one_even_dimension(dims):
    system = torus(*dims)
    assert hops_along(system, cycle(dims), 0) == {1}
    assert sorted(cycle(dims)) == list(range(system.chips))


# sizes that are products of consecutive dimensions: every group of every axis is a ring
PRODUCTS = [
    (TRN2_48XLARGE, (4, 4)),
    (TRN2_ULTRASERVER, (16, 4)),
    (TRN2_ULTRASERVER, (4, 16)),
    (TRN2_ULTRASERVER, (4, 4, 4)),
    (TRN2_ULTRASERVER, (64, 1)),
    (TRN3_GEN2, (36, 4)),
    (TRN3_GEN1, (16, 4)),
]


@pytest.mark.parametrize("system, sizes", PRODUCTS, ids=lambda x: str(x)[:30])
def test_axes_that_are_products_are_rings(system, sizes):
    chips = embedding(system, sizes)
    assert chips.shape == sizes and sorted(chips.ravel()) == list(range(system.chips))
    for axis, size in enumerate(sizes):
        assert hops_along(system, chips, axis) == ({1} if size > 1 else {0})


def test_the_inner_axis_has_the_last_dimensions():
    # A server each.
    np.testing.assert_array_equal(
        embedding(TRN3_GEN2, (36, 4)), np.arange(144).reshape(36, 4)
    )
    # The walk along the second dimension turns: instance 1 begins with its last row.
    np.testing.assert_array_equal(
        embedding(TRN2_ULTRASERVER, (16, 4))[4], [28, 29, 30, 31]
    )


def test_other_sizes_share_one_walk():
    """8 x 8 of 4 x 4 x 4: half an instance each, which is a ring too; across, it is not."""
    chips = embedding(TRN2_ULTRASERVER, (8, 8))
    np.testing.assert_array_equal(chips.ravel(), cycle((4, 4, 4)))
    assert hops_along(TRN2_ULTRASERVER, chips, 1) == {1}


@EVERY
@pytest.mark.parametrize("ranks", [1, 3, 4, 8])
def test_smaller_meshes_take_the_first_chips(system, ranks):
    whole = embedding(system, (system.chips,))
    np.testing.assert_array_equal(embedding(system, (ranks,)), whole[:ranks])


def test_more_ranks_than_chips():
    message = "Trn2 UltraServer: 16 x 5 is 80 chips, at most 64"
    with pytest.raises(LimitExceeded, match=message):
        embedding(TRN2_ULTRASERVER, (16, 5))


# --- links ---


def walk(system, source, target):
    """The links of one transfer, one step after the other: (chip, dimension, direction)."""
    at, to = list(system.place(source)), system.place(target)
    if system.switched:
        differs = [d for d in range(len(at)) if at[d] != to[d]]
        return (
            [(source, differs[0], "up"), (target, differs[0], "down")]
            if differs
            else []
        )
    links = []
    for d, size in enumerate(system.dims):
        forward = (to[d] - at[d]) % size
        backward = (at[d] - to[d]) % size
        step = (
            1 if forward < backward or (forward == backward and at[d] % 2 == 0) else -1
        )
        while at[d] != to[d]:
            links.append((tuple(at), d, step))
            at[d] = (at[d] + step) % size
    return links


def by_walking(system, source, target, load):
    """Hops and seconds a byte of each transfer, counted on every link."""
    ways = [walk(system, int(a), int(b)) for a, b in zip(source, target, strict=True)]
    carried = collections.Counter()
    for links, n in zip(ways, load, strict=True):
        carried.update(dict.fromkeys(links, n))
    rates = system.rates("nominal")
    seconds = [
        max((carried[x] / rates[x[1]] for x in links), default=0) for links in ways
    ]
    hops = [system.hops(int(a), int(b)) for a, b in zip(source, target, strict=True)]
    return hops, seconds


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "system", [*SYSTEMS, torus(5, 3), torus(2, 4)], ids=lambda s: f"{s.name} {s.dims}"
)
def test_links_are_those_of_the_walk(system, seed):
    rng = np.random.default_rng(seed)
    source, target = rng.integers(0, system.chips, (2, 3 * system.chips))
    load = rng.integers(1, 9, len(source)).astype(float)
    found = routed(system, "nominal", source, target, load)
    hops, seconds = by_walking(system, source, target, load)
    np.testing.assert_array_equal(found.hops, hops)
    np.testing.assert_allclose(found.seconds_per_byte, seconds, rtol=1e-14)


@pytest.mark.parametrize("size, each", [(4, 1), (5, 2), (8, 2), (9, 4), (12, 3)])
def test_halfway_around_a_ring(size, each):
    """Even rings split the two ways evenly, n/2 links each: n/4 a link. Odd ones go one way."""
    by = size // 2
    ranks = np.arange(size)
    found = routed(torus(size), "nominal", ranks, (ranks + by) % size, np.ones(size))
    assert set(found.hops) == {by} and set(found.seconds_per_byte) == {each}


@pytest.mark.parametrize("ways", [(1, 2), (2, 2), (1, 1)])
def test_dimension_order_on_a_torus(ways):
    """Every chip of 4 x 4 goes as far: each dimension's links carry one transfer a hop or half."""
    x, y = np.unravel_index(np.arange(16), (4, 4))
    target = 4 * ((x + ways[0]) % 4) + (y + ways[1]) % 4
    found = routed(torus(4, 4), "nominal", np.arange(16), target, np.ones(16))
    assert set(found.hops) == {sum(ways)} and set(found.seconds_per_byte) == {1}


def test_everybody_to_one():
    """First dimension first: all of a column meet in row 0, then go along it to column 0.

    The four of column 2 go up, over the link of column 3's four: it carries eight.
    """
    source = np.arange(1, 16)
    found = routed(torus(4, 4), "nominal", source, 0 * source, np.ones(15))
    assert max(found.seconds_per_byte) == 8
    through_switches = routed(TRN3_GEN1, "nominal", source, 0 * source, np.ones(15))
    inside, outside = (through_switches.seconds_per_byte[i] for i in (0, 14))
    assert inside == 3 / 128e9 and outside == 12 / 160e9


# --- along a mesh axis ---


def test_shifts_at_once_share_links():
    """All three shifts of a row of 4 at once: 1 hop up, 1 down, and 2 halved: 1 + 1 a link."""
    device = on_system(TRN2, TRN2_48XLARGE).at()
    found = shifted(device, (4, 4), 1, (1, 2, 3), np.ones(16))
    assert found.hops.tolist() == [[1] * 16, [2] * 16, [1] * 16]
    np.testing.assert_allclose(found.seconds_per_byte, 2 / 128e9)
    alone = shifted(device, (4, 4), 1, (2,), np.ones(16))
    np.testing.assert_allclose(alone.seconds_per_byte, 1 / 128e9)


def test_without_a_system_the_senders_link_is_shared():
    found = shifted(TRN3.at(), (6,), 0, (1, 2, 3), np.full(6, 2.0))
    assert (found.hops == 1).all()
    np.testing.assert_allclose(found.seconds_per_byte, 3 * 2 / 1.28e12)


@EVERY
def test_bands_and_more_load_cost_more(system):
    sheet = on_system(SHEETS[system.generation], system)
    ranks = np.ones(system.chips)
    for by in (1, 2, system.chips // 2):
        times = [
            shifted(
                sheet.at(band), ranks.shape, 0, (by,), load * ranks
            ).seconds_per_byte
            for band, load in itertools.product(("low", "nominal", "high"), (1, 2))
        ]
        assert (times[1] > times[0]).all() and (times[2] >= times[0]).all()
        assert (times[4] >= times[2]).all()
