"""What a machine's instructions may be given: `run` and `read` refuse the same, in the same words.

Each fault stands beside a program that differs from it in one place only and is taken.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from emu import Program, old
from emu.checks import rules
from emu.errors import LimitExceeded, NoCostRule, UnwrittenTile, WrongSpace
from emu.trainium import TRN1, TRN2, TRN3, dma_load, dma_store, hbm, psum, sbuf
from emu.trainium.isa import (
    activation,
    memset,
    nc_matmul,
    nc_stream_shuffle,
    nc_transpose,
    tensor_copy,
    tensor_copy_predicated,
    tensor_tensor,
)
from emu.wse import WSE3
from emu.wse.pe import isa as wse
from emu.wse.pe import maps

X = jnp.ones((128, 128))
KEEP_ALL = (255,) * 32


def load(x):
    return dma_load(sbuf(*x.shape, dtype=x.dtype), x)


def copied(view):
    return dma_store(tensor_copy(sbuf(*view.shape), view))


def program(kernel):
    return Program(kernel, {"core": 1}, ((),))


def refusal(call, error):
    with pytest.raises(error) as caught:
        call()
    return str(caught.value)


# --- views ---

# name: (a view that moves data between partitions, one that does not)
VIEWS = {
    "fewer partitions": (
        lambda tile: tile.reshape(64, 256),
        lambda tile: tile.reshape(128, 2, 64),
    ),
    "more partitions": (
        lambda tile: tile.reshape(128, 2, 64)[:, 0].reshape(64, 128),
        lambda tile: tile.reshape(128, 2, 64)[:, 0],
    ),
    "a row as a column": (lambda tile: tile[3], lambda tile: tile[:, 3:4]),
    "a new first dimension": (lambda tile: tile[None], lambda tile: tile[:, None]),
    "a row over partitions": (
        lambda tile: jnp.broadcast_to(tile[:1], (128, 128)),
        lambda tile: jnp.broadcast_to(tile[:, :1], (128, 128)),
    ),
    "every second partition": (lambda tile: tile[::2], lambda tile: tile[:, ::2]),
    "a start between quadrants": (lambda tile: tile[16:48], lambda tile: tile[32:64]),
    "too many from a quadrant": (lambda tile: tile[32:96], lambda tile: tile[64:]),
    "too many from the last": (lambda tile: tile[65:], lambda tile: tile[96:]),
    "a view of a view": (lambda tile: tile[32:][16:48], lambda tile: tile[32:][32:64]),
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_keeps_its_partitions(name):
    wrong, right = VIEWS[name]
    refused = program(lambda x: copied(wrong(load(x))))
    from_read = refusal(lambda: refused.read(TRN2.at(), X), LimitExceeded)
    from_run = refusal(lambda: refused.run(X), LimitExceeded)
    assert from_read == from_run
    assert "partition" in from_read and "(test_rules.py:" in from_read
    taken = program(lambda x: copied(right(load(x))))
    assert taken.read(TRN2.at(), X).end_ticks > 0
    assert np.all(taken.run(X) == 1)


def test_the_refusal_of_a_view_names_what_to_call():
    spread = program(lambda x: copied(jnp.broadcast_to(load(x)[:1], (128, 128))))
    assert "nc_matmul(dst, ones, row, 0)" in refusal(
        lambda: spread.run(X), LimitExceeded
    )
    folded = program(lambda x: copied(load(x).reshape(64, 256)))
    assert "dma_store" in refusal(lambda: folded.run(X), LimitExceeded)


def test_what_the_refusals_name_gives_the_same_values():
    """A row spread by a matmul with ones; a tile folded through HBM."""
    ones = jnp.ones((1, 128))
    row = jnp.arange(128.0)[None]

    def spread(row, ones):
        sums = nc_matmul(psum(128, 128), load(ones), load(row), 0)
        return dma_store(tensor_copy(sbuf(128, 128), sums))

    values = Program(spread, {"core": 1}, ((), ())).run(row, ones)
    np.testing.assert_array_equal(values[0], np.tile(np.arange(128.0), (128, 1)))
    folded = program(lambda x: copied(load(dma_store(load(x)).reshape(64, 256))))
    tile = jnp.arange(128.0 * 128).reshape(128, 128)
    np.testing.assert_array_equal(folded.run(tile)[0], tile.reshape(64, 256))


def test_a_buffer_in_hbm_has_no_partitions():
    taken = program(lambda x: copied(load(x.reshape(64, 256)[1:33].reshape(128, 64))))
    assert taken.run(X).shape == (1, 128, 64)


def test_a_dma_takes_any_partitions():
    taken = program(lambda x: dma_store(load(x)[16:48]))
    assert taken.run(X).shape == (1, 32, 128)
    assert taken.read(TRN2.at(), X).end_ticks > 0


@pytest.mark.parametrize("start, taken", [(0, True), (32, True), (8, False)])
def test_a_start_in_a_loop_is_that_of_its_first_turn(start, taken):
    def kernel(x):
        tile = load(x)

        def turn(i, out):
            part = lax.dynamic_slice(tile, (start + 32 * i, 0), (32, 128))
            return tensor_copy(out, part)

        return dma_store(lax.fori_loop(0, 2, turn, sbuf(32, 128)))

    if taken:
        assert program(kernel).read(TRN2.at(), X).end_ticks > 0
    else:
        message = refusal(lambda: program(kernel).run(X), LimitExceeded)
        assert "from partition 8" in message


def stacked(x):
    """Four tiles in SBUF, `[4, 128, 128]`, one of each turn of a loop."""
    return lax.scan(lambda n, _: (n, load(x)), 0, None, length=4)[1]


STACKS = {
    "a tile taken apart": (
        lambda x: lax.scan(lambda n, row: (n, row), 0, load(x))[1],
        lambda x: lax.scan(lambda n, row: (n, row), 0, x)[1],
    ),
    "a stack for a tile": (
        lambda x: dma_store(tensor_copy(sbuf(4, 128, 128), stacked(x))),
        lambda x: dma_store(tensor_copy(sbuf(128, 128), stacked(x)[2])),
    ),
    "one partition of all": (
        lambda x: copied(stacked(x)[:, 5]),
        lambda x: copied(stacked(x)[1:3][1][:, 5:9]),
    ),
    "a stack as columns": (
        lambda x: copied(stacked(x).reshape(128, 512)),
        lambda x: copied(stacked(x)[0].reshape(128, 2, 64)),
    ),
}


@pytest.mark.parametrize("name", STACKS)
def test_a_stack_of_tiles_is_no_tile(name):
    wrong, right = STACKS[name]
    refused = program(wrong)
    message = refusal(lambda: refused.run(X), LimitExceeded)
    assert message == refusal(lambda: refused.read(TRN2.at(), X), LimitExceeded)
    assert "(test_rules.py:" in message
    program(right).run(X)


# --- implicit broadcasts ---

BROADCASTS = {
    "a row and a tile": lambda tile: tensor_tensor(
        sbuf(128, 128), tile, tile[:1], op="add"
    ),
    "one predicate for all": lambda tile: tensor_copy_predicated(
        memset(sbuf(128, 128), value=0.0),
        tile,
        tensor_copy(sbuf(1, 128, dtype=jnp.uint8), tile[:1]),
    ),
}


@pytest.mark.parametrize("name", BROADCASTS)
def test_an_instruction_does_not_broadcast_over_partitions(name):
    refused = program(lambda x: dma_store(BROADCASTS[name](load(x))))
    message = refusal(lambda: refused.run(X), LimitExceeded)
    assert "partitions, must be of as many each: to" in message
    assert message == refusal(lambda: refused.read(TRN3.at(), X), LimitExceeded)


# --- what nobody wrote ---


UNWRITTEN = {
    "stored": lambda x: dma_store(sbuf(128, 128)),
    "copied": lambda x: copied(sbuf(128, 128)),
    "a view of it": lambda x: copied(sbuf(128, 128)[:, 3:7]),
    "a buffer in HBM": lambda x: copied(load(hbm(128, 128))),
    "one of two operands": lambda x: dma_store(
        tensor_tensor(sbuf(128, 128), load(x), sbuf(128, 128), op="add")
    ),
    "added to": lambda x: copied(nc_matmul(psum(128, 128), load(x), load(x), 1)),
    "added to in every turn": lambda x: copied(
        lax.fori_loop(
            0,
            4,
            lambda i, sums: nc_matmul(sums, load(x), load(x), i + 1),
            psum(128, 128),
        )
    ),
    "a part added to": lambda x: dma_store(
        tensor_tensor.at[:, 0](sbuf(128, 2, 128), old, load(x), op="add").reshape(
            128, 256
        )
    ),
    "after a loop without turns": lambda x: copied(
        lax.fori_loop(0, 0, lambda i, tile: dma_load(tile, x), sbuf(128, 128))
    ),
    "the third turn of three tiles": lambda x: copied(_rotated(x, turns=3)),
}
WRITTEN = {
    "stored": lambda x: dma_store(dma_load(sbuf(128, 128), x)),
    "in part": lambda x: dma_store(
        dma_load.at[:, 1](sbuf(128, 2, 128), x).reshape(128, 256)
    ),
    "overwritten first": lambda x: copied(
        lax.fori_loop(
            0, 4, lambda i, sums: nc_matmul(sums, load(x), load(x), i), psum(128, 128)
        )
    ),
    "set to zero first": lambda x: copied(
        nc_matmul(memset(psum(128, 128), value=0.0), load(x), load(x), 1)
    ),
    "where the other branch writes": lambda x: copied(
        lax.fori_loop(
            0,
            2,
            lambda i, tile: lax.cond(
                i == 0,
                lambda tile: dma_load(tile, x),
                lambda tile: tensor_copy(sbuf(128, 128), tile),
                tile,
            ),
            sbuf(128, 128),
        )
    ),
    "two turns of three tiles": lambda x: copied(_rotated(x, turns=2)),
    "kept by a shuffle": lambda x: dma_store(
        nc_stream_shuffle(sbuf(128, 128), load(x), mask=KEEP_ALL)
    ),
}


def _rotated(x, turns):
    """Every turn copies the first of three tiles and puts it last; nobody wrote the third."""

    def turn(_, carry):
        out, (first, second, third) = carry
        return tensor_copy(out, first), (second, third, first)

    tiles = load(x), load(x), sbuf(128, 128)
    out, _ = lax.fori_loop(0, turns, turn, (sbuf(128, 128), tiles))
    return out


@pytest.mark.parametrize("name", UNWRITTEN)
def test_what_nobody_wrote_is_not_read(name):
    refused = program(UNWRITTEN[name])
    from_read = refusal(lambda: refused.read(TRN2.at(), X), UnwrittenTile)
    assert from_read == refusal(lambda: refused.run(X), UnwrittenTile)
    assert "nobody has written" in from_read and "(test_rules.py:" in from_read


@pytest.mark.parametrize("name", WRITTEN)
def test_what_somebody_wrote_is_read(name):
    taken = program(WRITTEN[name])
    assert taken.read(TRN2.at(), X, check_memory=False).end_ticks > 0
    taken.run(X)


def test_a_pe_adds_to_what_was_written():
    def sums(w, x, start):
        dst = wse.sram_tile(shape=(4,), dtype=jnp.float32)
        return maps.fmac_map(start(dst), w, x)

    w, x = jnp.ones((6, 4)), jnp.ones(6)
    fresh = Program(lambda w, x: sums(w, x, lambda dst: dst), {"pe": 1}, ((), ()))
    message = refusal(lambda: fresh.run(w, x), UnwrittenTile)
    assert "wse.fmac_map" in message
    assert message == refusal(lambda: fresh.read(WSE3.at(), w, x), UnwrittenTile)
    zero = lambda dst: wse.fill(dst, value=0.0)  # noqa: E731
    filled = Program(lambda w, x: sums(w, x, zero), {"pe": 1}, ((), ()))
    assert np.all(filled.run(w, x) == 6)


# --- the rules that the clock has always had, now of a run too ---

IMPOSSIBLE = {
    "a matmul from HBM": (
        WrongSpace,
        lambda x: copied(nc_matmul(psum(128, 128), x, x, 0)),
    ),
    "a matmul into SBUF": (
        WrongSpace,
        lambda x: dma_store(nc_matmul(sbuf(128, 128), load(x), load(x), 0)),
    ),
    "256 partitions": (
        LimitExceeded,
        lambda x: dma_store(dma_load(sbuf(256, 64), x.reshape(256, 64))),
    ),
    "exp of a tile": (NoCostRule, lambda x: dma_store(jnp.exp(load(x)))),
    "a sum of tiles": (NoCostRule, lambda x: dma_store(load(x) + load(x))),
    "arithmetic in HBM": (NoCostRule, lambda x: dma_store(load(x * 2))),
    "a transposed view": (NoCostRule, lambda x: dma_store(load(x).T)),
    "an unknown queue": (
        LimitExceeded,
        lambda x: dma_store(dma_load(sbuf(128, 128), x, queue="fast")),
    ),
    "in a branch": (
        NoCostRule,
        lambda x: lax.cond(
            lax.axis_index("core") == 0,
            lambda tile: jnp.exp(tile),
            lambda tile: tile,
            dma_store(load(x)),
        ),
    ),
    "in a loop": (
        WrongSpace,
        lambda x: lax.fori_loop(0, 3, lambda i, y: activation(y, y, op="exp"), x),
    ),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_run_refuses_what_no_machine_can(name):
    error, kernel = IMPOSSIBLE[name]
    refused = program(kernel)
    message = refusal(lambda: refused.run(X), error)
    assert "(test_rules.py:" in message
    assert message == refusal(lambda: refused.read(TRN3.at(), X), error)


def test_a_run_takes_what_one_generation_takes():
    """Trainium1 transposes bfloat16 into float32, later ones into bfloat16."""
    x = X.astype(jnp.bfloat16)

    def transposed(dtype):
        def kernel(x):
            turned = nc_transpose(psum(128, 128, dtype=dtype), load(x))
            return dma_store(tensor_copy(sbuf(128, 128, dtype=dtype), turned))

        return program(kernel)

    for dtype, device in ((jnp.float32, TRN1), (jnp.bfloat16, TRN3)):
        assert transposed(dtype).run(x).dtype == dtype
        assert transposed(dtype).read(device.at(), x).end_ticks > 0
    refused = transposed(jnp.float16)
    assert "must be bfloat16 on Trainium3" in refusal(
        lambda: refused.run(x), LimitExceeded
    )


def test_a_function_without_instructions_is_of_no_machine():
    plain = program(lambda x: jnp.exp(x))
    assert plain.run(X).shape == (1, 128, 128)


def test_integers_of_a_run_may_be_known_to_the_clock():
    """`run` gets numbers where `read` gets `Known`; arithmetic on them is no instruction."""

    def kernel(x, n):
        at = (2 * n + 1) % 3
        return dma_store(dma_load.at[:, at](sbuf(128, 3, 128), x).reshape(128, 384))

    values = Program(kernel, {"core": 1}, ((), ())).run(X, jnp.int32(2))
    assert np.all(values[0][:, 256:] == 1)


def test_a_program_is_asked_once(monkeypatch):
    asked = []
    walk = rules._Walk.body

    def counted(self, body, inputs):
        asked.append(body)
        return walk(self, body, inputs)

    monkeypatch.setattr(rules._Walk, "body", counted)
    kernel = program(lambda x: copied(load(x)))
    kernel.run(X)
    first = len(asked)
    kernel.run(2 * X)
    assert first == len(asked) > 0
    kernel.run(jnp.ones((64, 128)))
    assert len(asked) > first


def test_a_long_loop_is_followed_no_longer_than_needed(monkeypatch):
    turns = []
    walk = rules._Walk._body

    def counted(self, body, inputs):
        turns.append(body)
        return walk(self, body, inputs)

    monkeypatch.setattr(rules._Walk, "_body", counted)

    def kernel(x):
        return copied(
            lax.fori_loop(
                0,
                10**6,
                lambda i, sums: nc_matmul(sums, load(x), load(x), i),
                psum(128, 128),
            )
        )

    program(kernel).read(TRN2.at(), X)
    # The kernel, the loop's first turn and its second; the third begins as the second did.
    assert len(turns) <= 4


@pytest.mark.parametrize("reverse", [False, True])
def test_the_first_slice_of_a_loop(reverse):
    """Which flag comes first decides whether a sum begins with an addition."""

    def kernel(x):
        def turn(sums, flag):
            return nc_matmul(sums, load(x), load(x), flag), ()

        flags = jnp.arange(2, dtype=jnp.int32)
        return copied(lax.scan(turn, psum(128, 128), flags, reverse=reverse)[0])

    if reverse:
        assert "adds to" in refusal(lambda: program(kernel).run(X), UnwrittenTile)
    else:
        assert np.all(program(kernel).run(X) == 256)
