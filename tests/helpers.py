"""A toy machine: a datasheet, instructions of every kind, and programs made at random."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from jax import lax

from emu import Cost, Quantity, Sheet, instruction

SHAPE = (2, 3)
TILE_BYTES = 4 * 6
F32 = jax.ShapeDtypeStruct(SHAPE, jnp.float32)


def toy(value: Any, low: Any = None, high: Any = None) -> Quantity:
    return Quantity(value, "published", "made up", low, high)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToySheet(Sheet):
    """12 ticks a nanosecond: a cycle is 2 ticks of `mul`, 3 of `add`, 4 of `io` and 1 of `dma`."""

    name: str = "toy"
    core: str = "core"
    home: str = "hbm"
    tick_hz: int | None = 12_000_000_000
    engines: Mapping[str, str | None] = dataclasses.field(
        default_factory=lambda: {
            "mul": "mul_hz",
            "add": "add_hz",
            "io": "io_hz",
            "dma": None,
        }
    )
    capacity: Mapping[str, str | None] = dataclasses.field(
        default_factory=lambda: {"hbm": None, "sbuf": "sbuf_bytes"}
    )
    mul_hz: Quantity = toy(6_000_000_000)
    add_hz: Quantity = toy(4_000_000_000)
    io_hz: Quantity = toy(3_000_000_000)
    sbuf_bytes: Quantity = toy(1 << 20)
    load_latency_cycles: Quantity = toy(100, 80, 150)
    mul_throttle_window_s: Quantity = toy(1e-8)  # 120 ticks
    mul_throttle_share: Quantity = toy(0.5)
    mul_throttle_slowdown: Quantity = toy(3)


TICKS = {"mul": 2, "add": 3, "io": 4, "dma": 1}
TOY = ToySheet().at()
THROTTLED = ToySheet(throttles={"mul": "mul_throttle"}).at()


def with_sbuf(nbytes: int) -> Any:
    return ToySheet(sbuf_bytes=toy(nbytes)).at()


# --- instructions with a meaning: costs are in the decorator ---


@instruction(
    "toy.tile",
    cost=lambda d, **_: Cost(engine="add"),
    reads=(),
    writes="sbuf",
    in_place=False,
)
def tile(*, shape=SHAPE, dtype=jnp.float32, buffers=1, bank=None):
    return jnp.full(shape, jnp.nan, dtype)


def load_cost(d, dst, x):
    return Cost(engine="io", busy_cycles=10, latency_cycles=d.load_latency_cycles)


@instruction("toy.load", cost=load_cost, reads=("hbm",), writes="sbuf")
def load(dst, x):
    return x


@instruction(
    "toy.store",
    cost=lambda d, x: Cost(engine="io", busy_cycles=10, latency_cycles=50),
    reads=("sbuf",),
    writes="hbm",
    in_place=False,
)
def store(x):
    return x


@instruction(
    "toy.add",
    cost=lambda d, dst, a, b: Cost(engine="add", busy_cycles=7, flops=a.size),
    reads=("sbuf", "sbuf"),
    writes="sbuf",
)
def add(dst, a, b):
    return a + b


@instruction(
    "toy.mul",
    cost=lambda d, dst, a, b: Cost(
        engine="mul", busy_cycles=5, latency_cycles=20, flops=a.size
    ),
    reads=("sbuf", "sbuf"),
    writes="sbuf",
)
def mul(dst, a, b):
    return a * b


@instruction(
    "toy.accumulate",
    cost=lambda d, dst, a: Cost(engine="add", busy_cycles=4, flops=a.size),
    reads=("sbuf",),
    writes="sbuf",
    reads_destination=True,
)
def accumulate(dst, a):
    return dst + a


@instruction(
    "toy.copy_into",
    cost=lambda d, dst, src, start: Cost(
        engine="io",
        busy_cycles=3,
        moved_bytes={"sbuf_read": src.nbytes, "sbuf_write": src.nbytes},
    ),
    reads=("sbuf", "register"),
    writes="sbuf",
    partial=True,
)
def copy_into(dst, src, start):
    return lax.dynamic_update_slice(dst, src, (start, jnp.zeros_like(start)))


@instruction(
    "toy.split",
    cost=lambda d, low, high, x: Cost(engine="mul", busy_cycles=6),
    reads=("sbuf",),
    writes=("sbuf", "sbuf"),
)
def split(low, high, x):
    return jnp.minimum(x, 0), jnp.maximum(x, 0)


@instruction(
    "toy.signal",
    cost=lambda d, x: Cost(engine="add", busy_cycles=1),
    reads=("sbuf",),
    writes="sbuf",
    in_place=False,
    effect=True,
)
def signal(x):
    return x


def sum_arrival(device, mesh, crossing, dst, x, *, axis):
    """Every core has the sum 9 ticks after the last core's part left."""
    at = list(mesh).index(axis)
    ready = (crossing.start_ticks + crossing.latency_ticks).max(
        axis=at, keepdims=True
    ) + 9
    ready = np.maximum(ready, crossing.destination_idle_ticks)
    return ready, crossing.start_ticks + crossing.busy_ticks


@instruction(
    "toy.all_add",
    cost=lambda d, dst, x, *, axis: Cost(
        engine="dma", busy_cycles=11, latency_cycles=30
    ),
    reads=("sbuf",),
    writes="sbuf",
    arrival=sum_arrival,
)
def all_add(dst, x, *, axis):
    total = functools.reduce(jnp.add, list(x))  # in the order of the cores
    return jnp.broadcast_to(total[None], x.shape)


# --- cost given by the caller; `effect` lets a program overwrite tiles that nobody read ---


def chosen(d, *operands, engine, busy, latency, **more):
    mappings = ("taken", "lead_cycles", "lost")
    settings: dict[str, Any] = {
        k: dict(x) if k in mappings else x for k, x in more.items()
    }
    return Cost(engine=engine, busy_cycles=busy, latency_cycles=latency, **settings)


@instruction("toy.op", cost=chosen, reads=("sbuf",), writes="sbuf", effect=True)
def op(dst, a, **cost):
    return a


@instruction(
    "toy.part", cost=chosen, reads=("sbuf",), writes="sbuf", effect=True, partial=True
)
def part(dst, a, **cost):
    return a


@instruction("toy.fetch", cost=chosen, reads=("hbm",), writes="sbuf", effect=True)
def fetch(dst, x, **cost):
    return x


@instruction(
    "toy.make", cost=chosen, reads=("sbuf",), writes="sbuf", in_place=False, effect=True
)
def make(a, *, engine, busy, latency):
    return a


@instruction(
    "toy.counted",
    cost=lambda d, dst, a, n, *, engine, busy: Cost(
        engine=engine, busy_cycles=busy + n.known
    ),
    reads=("sbuf", "count"),
    writes="sbuf",
    effect=True,
)
def counted(dst, a, n, *, engine, busy):
    return a


def hop_arrival(device, mesh, crossing, dst, x, *, axis, engine, busy, latency):
    """Core i receives what core i - 1 sent, cyclically, once its destination is idle."""
    sent = np.roll(
        crossing.start_ticks + crossing.latency_ticks, 1, list(mesh).index(axis)
    )
    ready = np.maximum(sent, crossing.destination_idle_ticks)
    return np.maximum(
        ready, crossing.start_ticks
    ), crossing.start_ticks + crossing.busy_ticks


@instruction(
    "toy.hop",
    cost=lambda d, *xs, axis, **p: chosen(d, *xs, **p),
    reads=("sbuf",),
    writes="sbuf",
    arrival=hop_arrival,
    effect=True,
)
def hop(dst, x, *, axis, engine, busy, latency):
    return jnp.roll(x, 1, 0)


# --- programs at random ---

MESH = {"r": 2, "c": 3}
TILES = 5  # tiles 0 and 1 are read by loops and never carried
SPARES = (
    14  # at most so many further ones turn, more than the longest period looked for
)
# A deep ring lets its producer run ahead of its consumer for many iterations, at a rate of its own,
# until it is full: a schedule that repeats for a while and not for ever.
DEPTHS = (1, 1, 2, 2, 3, 7, 12)
TABLE = (3, 0, 7, 1, 1, 5, 2, 9)


@dataclasses.dataclass(frozen=True)
class Scope:
    """What a statement may use.

    Attributes:
      ints: known integers by nesting.
      x: an argument.
      core: its core's indices.
      first: the further tiles as they were first written, before any loop.
    """

    ints: tuple[Any, ...]
    x: Any
    core: tuple[Any, Any]
    first: list[Any] = dataclasses.field(default_factory=list)


@st.composite
def costs(draw, plain=False):
    busy = draw(st.integers(0, 9))
    engine = draw(st.sampled_from(sorted(TICKS)))
    latency = busy + draw(st.sampled_from([0, 0, 3, 40, 300]))
    cost = dict(engine=engine, busy=busy, latency=latency)
    return (
        cost if plain else cost | draw(st.sampled_from([{}, {}, *extras(engine, busy)]))
    )


def extras(engine, busy):
    """What a cost may hold besides: each a setting of its own."""
    other = next(e for e in sorted(TICKS) if e != engine)
    return [
        {"interval_cycles": 23},
        {"handover_cycles": 5},
        {"lead_cycles": ((1, 7),)},
        {"lost": (("idling", busy // 2),)},
        {"taken": ((other, 4),)},
        {"ports": ("fast",)},
        {"duty": 0.25},
    ]


@st.composite
def statements(draw, depth, more):
    """One statement: `("kind", details...)`; `more` kinds may not stand inside a branch."""
    kinds = ["op"] * 4 + ["part", "fetch", "counted", "scratch", "late"]
    kinds += ["cond"] * (depth > 0) + ["scan"] * (depth > 0) + [*more]
    kind = draw(st.sampled_from(kinds))
    dst, src = draw(st.integers(2, TILES - 1)), draw(st.integers(0, TILES - 1))
    if kind == "cond":
        test = draw(st.sampled_from(sorted(TESTS)))
        bodies = [draw(bodies_of(depth - 1, ())) for _ in range(2)]
        return kind, test, draw(st.integers(0, 9)), bodies
    if kind == "scan":
        return (kind, *draw(loops_of(depth - 1, more)))
    if kind == "rotate":
        return kind, draw(st.integers(1, TILES - 2))
    if kind == "turn":
        return kind, src, draw(costs())
    if kind == "make":
        return kind, dst, src, draw(costs(plain=True))
    if kind == "late":
        return kind, dst, draw(st.integers(0, SPARES - 1)), draw(costs())
    if kind == "hop":
        return (
            kind,
            dst,
            src,
            draw(st.sampled_from(sorted(MESH))),
            draw(costs(plain=True)),
        )
    if kind == "scratch":
        bank = draw(st.sampled_from([None, 0, 1]))
        depth = draw(st.sampled_from(DEPTHS))
        return kind, dst, src, depth, bank, draw(costs()), draw(costs())
    return kind, dst, src, draw(costs(plain=kind == "counted"))


def bodies_of(depth, more):
    return st.lists(statements(depth, more), min_size=1, max_size=4)


@st.composite
def loops_of(draw, depth, more):
    form = draw(st.sampled_from(["scan", "reverse", "fori", "odd"]))
    return form, draw(st.integers(0, 9)), draw(bodies_of(depth, more))


@st.composite
def programs(draw, more=("hop", "rotate", "turn", "make")):
    """A loop of up to 40 iterations between straight statements: a list of statements."""
    banks = st.sampled_from([None, None, None, 0, 1])
    spares = draw(st.lists(banks, max_size=SPARES))
    before = [("spares", spares, draw(costs())), *draw(bodies_of(0, more))]
    form, _, body = draw(loops_of(2, more))
    loop = ("scan", form, draw(st.integers(3, 40)), body)
    return [*before, loop, *draw(bodies_of(0, more))]


@st.composite
def turning_programs(draw):
    """A loop that turns further tiles, perhaps not once around, and late readers of them.

    The tiles were written as the loop writes them, so that the schedule repeats from its start.
    """
    bank = st.sampled_from([None, None, None, 0])
    banks = draw(st.lists(bank, min_size=2, max_size=SPARES))
    cost = draw(costs(plain=True))
    program: list[tuple[Any, ...]] = [("spares", banks, cost)]
    if draw(st.booleans()):
        long = draw(costs(plain=True)) | {"busy": 3000, "latency": 3000}
        brief = dict(engine="add", busy=2, latency=5)
        program.append(("scratch", 2, 0, 1, 0, brief, long))
    turns = [("turn", 0, cost)]
    turns += draw(st.lists(statements(0, ("turn",)), max_size=1))
    program.append(
        ("scan", "scan", draw(st.integers(3, 40)), draw(st.permutations(turns)))
    )
    for kind in draw(
        st.lists(st.sampled_from(["late", "late", "first"]), min_size=1, max_size=3)
    ):
        place = draw(st.integers(0, len(banks) - 1))
        program.append((kind, draw(st.integers(2, TILES - 1)), place, draw(costs())))
    return program


def kernel_of(program, x, core=None):
    """The kernel of a random program: tiles in, the same tiles out; `core`: indices to use."""
    core = core or (lax.axis_index("r"), lax.axis_index("c"))
    tiles = [tile() for _ in range(TILES)]
    tiles = [
        fetch(t, x, engine="io", busy=1, latency=70 * i) for i, t in enumerate(tiles)
    ]
    return block(program, tiles, Scope((jnp.int32(4), jnp.int32(2)), x, core))


def block(body, tiles, scope):
    for statement in body:
        tiles = STATEMENTS[statement[0]](list(tiles), scope, *statement[1:])
    return tiles


def run_op(tiles, scope, dst, src, cost, instr=op):
    tiles[dst] = instr(tiles[dst], tiles[src], **cost)
    return tiles


def run_make(tiles, scope, dst, src, cost):
    """A tile that the instruction makes itself, in place of an old one."""
    tiles[dst] = make(tiles[src], **cost)
    return tiles


def run_fetch(tiles, scope, dst, src, cost):
    tiles[dst] = fetch(tiles[dst], scope.x, **cost)
    return tiles


def run_scratch(tiles, scope, dst, src, buffers, bank, fill, cost):
    """Through a tile declared on the spot."""
    passing = tile(buffers=buffers, bank=bank)
    passing = op(passing, tiles[src], **fill)
    tiles[dst] = op(tiles[dst], passing, **cost)
    return tiles


def run_counted(tiles, scope, dst, src, cost):
    n = lax.rem(scope.ints[-1], jnp.int32(4))
    tiles[dst] = counted(
        tiles[dst], tiles[src], n, engine=cost["engine"], busy=cost["busy"]
    )
    return tiles


def run_hop(tiles, scope, dst, src, axis, cost):
    tiles[dst] = hop(tiles[dst], tiles[src], axis=axis, **cost)
    return tiles


def run_rotate(tiles, scope, n):
    """A ring over the last `n` tiles."""
    return [*tiles[: TILES - n], *tiles[TILES - n + 1 :], tiles[TILES - n]]


def run_spares(tiles, scope, banks, cost):
    """Further tiles, some of them in a bank, all written at the start."""
    fresh = [tile(bank=bank) for bank in banks]
    scope.first.extend(op(new, tiles[0], **cost) for new in fresh)
    return [*tiles, *scope.first]


def run_turn(tiles, scope, src, cost):
    """Writes the first of the further tiles, which then goes to the end of the line."""
    if len(tiles) == TILES:
        return tiles
    first, *others = tiles[TILES:]
    return [*tiles[:TILES], *others, op(first, tiles[src], **cost)]


def run_late(tiles, scope, dst, place, cost):
    """Reads one of the further tiles, which may have been written long ago."""
    if place >= len(tiles) - TILES:
        return tiles
    return run_op(tiles, scope, dst, TILES + place, cost)


def run_first(tiles, scope, dst, place, cost):
    """Reads one of the further tiles as it was before any loop: stale, if a loop has written it."""
    tiles[dst] = op(tiles[dst], scope.first[place], **cost)
    return tiles


def table_entry(i):
    place = lax.rem(i, jnp.int32(len(TABLE)))
    return lax.dynamic_index_in_dim(
        jnp.asarray(TABLE, jnp.int32), place, keepdims=False
    )


TESTS = {
    "index": lambda i, j, r, c, n: i < n,
    "triangle": lambda i, j, r, c, n: i <= j,
    "core": lambda i, j, r, c, n: lax.rem(r + c, jnp.int32(2)) == 0,
    "both": lambda i, j, r, c, n: i <= r + c,
    "parity": lambda i, j, r, c, n: lax.rem(i + n, jnp.int32(3)) == 0,
    "table": lambda i, j, r, c, n: table_entry(i) < n,
    # The least integer has no magnitude.
    "edge": lambda i, j, r, c, n: (lax.div(i - jnp.int32(2**31 - 1), n - 4) & 1) == 0,
}


def run_cond(tiles, scope, test, n, bodies):
    i, j = scope.ints[-1], scope.ints[-2]
    r, c = scope.core
    pick = TESTS[test](i, j, r, c, n)
    return lax.cond(
        pick, *(lambda *ts, b=b: tuple(block(b, ts, scope)) for b in bodies), *tiles
    )


def run_scan(tiles, scope, form, length, body):
    fixed = tiles[:2]

    def inner(carried, i):
        ts = block(
            body, [*fixed, *carried], dataclasses.replace(scope, ints=(*scope.ints, i))
        )
        return tuple(ts[2:])

    index, carried = jnp.arange(length), tuple(tiles[2:])
    if form == "fori":
        carried = lax.fori_loop(0, length, lambda i, ts: inner(ts, i), carried)
    elif form == "odd":  # a known integer that follows no ramp

        def odd(state, _):
            k, ts = state
            return (lax.rem(k * 3 + 1, jnp.int32(7)), inner(ts, k)), None

        (_, carried), _ = lax.scan(odd, (jnp.int32(2), carried), None, length=length)
    else:
        carried, _ = lax.scan(
            lambda ts, i: (inner(ts, i), None),
            carried,
            index,
            reverse=form == "reverse",
        )
    return [*fixed, *carried]


STATEMENTS = {
    "op": run_op,
    "part": functools.partial(run_op, instr=part),
    "fetch": run_fetch,
    "scratch": run_scratch,
    "make": run_make,
    "counted": run_counted,
    "hop": run_hop,
    "rotate": run_rotate,
    "spares": run_spares,
    "turn": run_turn,
    "late": run_late,
    "first": run_first,
    "cond": run_cond,
    "scan": run_scan,
}


def same_clock(a, b):
    """Asserts that two readings agree in everything but how many instructions were walked."""
    assert a.end_ticks == b.end_ticks
    assert a.busy_ticks == b.busy_ticks and a.most_busy_ticks == b.most_busy_ticks
    assert a.spent.keys() == b.spent.keys()
    assert all(np.all(ticks == b.spent[key]) for key, ticks in a.spent.items())
    assert {k: n for k, n in a.tally.sums.items() if n} == {
        k: n for k, n in b.tally.sums.items() if n
    }
    for x, y in zip(a.outputs, b.outputs, strict=True):
        assert np.all(x.ready == y.ready)
        for one, other in zip(x.steps or [], y.steps or [], strict=True):
            assert np.all(one == other)
        if x.buffer is not None:
            assert np.all(x.buffer.idle == y.buffer.idle)
        if x.known is not None or y.known is not None:
            np.testing.assert_array_equal(x.known, y.known)
    assert a.events == b.events


def adds_up(clock):
    """Asserts that every tick of every engine is accounted for, on every core."""
    for engine, last in clock.last.items():
        total = sum(ticks for (e, _), ticks in clock.spent.items() if e == engine)
        assert np.all(total == last), engine
