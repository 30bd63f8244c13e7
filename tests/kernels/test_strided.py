"""The abstract reading of masks: sound on every box, exact on every point, clear when it cannot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from emu.errors import EmulationError
from kernels import masks
from kernels.masks import strided, strided_bits
from kernels.masks.strided import Strided
from kernels.masks.traced_mask import TracedMask, UnreadableMask

TABLE = np.array([3, 3, 3, -1, 7, 7, 2, 2, 2, 2, 5], np.int32)
BLOCKS = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 1]], bool)

integers = st.deferred(
    lambda: st.one_of(
        st.sampled_from(["q", "k"]),
        st.integers(-9, 9),
        st.tuples(st.sampled_from(["+", "-", "min", "max"]), integers, integers),
        st.tuples(
            st.sampled_from(["*", "//", "%", "&", "<<", ">>"]),
            integers,
            st.integers(1, 4),
        ),
        st.tuples(st.sampled_from(["abs", "neg", "table"]), integers),
        st.tuples(st.just("where"), booleans, integers, integers),
    )
)
booleans = st.deferred(
    lambda: st.one_of(
        st.tuples(st.sampled_from(["<", "<=", "==", "!="]), integers, integers),
        st.tuples(st.sampled_from(["and", "or", "xor"]), booleans, booleans),
        st.tuples(st.just("not"), booleans),
    )
)

OPERATIONS = {
    "+": lambda xp, a, b: a + b,
    "-": lambda xp, a, b: a - b,
    "*": lambda xp, a, b: a * b,
    "//": lambda xp, a, b: a // b,
    "%": lambda xp, a, b: a % b,
    "&": lambda xp, a, b: a & b,
    "<<": lambda xp, a, b: a << b,
    ">>": lambda xp, a, b: a >> b,
    "min": lambda xp, a, b: xp.minimum(a, b),
    "max": lambda xp, a, b: xp.maximum(a, b),
    "abs": lambda xp, a: xp.abs(a),
    "neg": lambda xp, a: -a,
    "where": lambda xp, c, a, b: xp.where(c, a, b),
    "table": lambda xp, a: xp.asarray(TABLE)[xp.clip(a, 0, len(TABLE) - 1)],
    "<": lambda xp, a, b: a < b,
    "<=": lambda xp, a, b: a <= b,
    "==": lambda xp, a, b: a == b,
    "!=": lambda xp, a, b: a != b,
    "and": lambda xp, a, b: a & b,
    "or": lambda xp, a, b: a | b,
    "xor": lambda xp, a, b: xp.logical_xor(a, b),
    "not": lambda xp, a: ~a,
}


def value(expression, xp, q, k):
    """An expression's value in NumPy or JAX; constants become int32."""
    if isinstance(expression, tuple):
        name, *operands = expression
        return OPERATIONS[name](xp, *(value(x, xp, q, k) for x in operands))
    return (
        {"q": q, "k": k}[expression]
        if isinstance(expression, str)
        else np.int32(expression)
    )


sets = st.builds(
    lambda lo, step, count: Strided(
        *map(np.asarray, ([lo], [lo + step * count], [step]))
    ),
    st.integers(-40, 40),
    st.integers(1, 12),
    st.integers(0, 5),
)


def members(x):
    return np.arange(x.lo[0], x.hi[0] + 1, max(x.step[0], 1)).astype(np.int32)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(booleans, st.lists(st.tuples(sets, sets), min_size=3, max_size=3))
def test_random_masks_are_bounded_on_boxes_and_exact_on_points(expression, boxes):
    traced = TracedMask(lambda b, h, q, k: jnp.asarray(value(expression, jnp, q, k)))
    with np.errstate(all="ignore"):
        for q, k in boxes:
            a, b = np.meshgrid(members(q), members(k), indexing="ij")
            truth = np.broadcast_to(value(expression, np, a, b), a.shape)
            answer = traced.boxes(q, k)
            assert answer.lo <= truth.all() and truth.any() <= answer.hi
            np.testing.assert_array_equal(traced.points(a, b), truth)
            points = traced.boxes(*(strided.exactly(x.reshape(-1)) for x in (a, b)))
            np.testing.assert_array_equal(points.lo, truth.reshape(-1))
            np.testing.assert_array_equal(points.hi, truth.reshape(-1))


def truncated(a, b):
    return -1 if b == 0 else int(np.trunc(a / b))


BINARY = {
    "add": (strided.add, lambda a, b: a + b),
    "mul": (strided.mul, lambda a, b: a * b),
    "minimum": (strided.minimum, min),
    "maximum": (strided.maximum, max),
    "divide": (strided.divide, truncated),
    "remainder": (strided.remainder, lambda a, b: a - b * truncated(a, b) if b else a),
    "join": (strided.join, lambda a, b: a),
    "less": (strided.less, lambda a, b: a < b),
    "less_equal": (strided.less_equal, lambda a, b: a <= b),
    "equal": (strided.equal, lambda a, b: a == b),
    "bit_and": (strided_bits.bit_and, lambda a, b: a & b),
    "bit_or": (strided_bits.bit_or, lambda a, b: a | b),
    "bit_xor": (strided_bits.bit_xor, lambda a, b: a ^ b),
    "absolute": (lambda a, b: strided.absolute(a), lambda a, b: abs(a)),
    "sign": (lambda a, b: strided.sign(a), lambda a, b: (a > 0) - (a < 0)),
    "power": (lambda a, b: strided.power(a, 3, np.int32), lambda a, b: a**3),
}


@pytest.mark.parametrize("name", BINARY)
@settings(derandomize=True, deadline=None, max_examples=60)
@given(a=sets, b=sets)
def test_operation_holds_every_result(name, a, b):
    of_sets, of_numbers = BINARY[name]
    found = of_sets(a, b)
    results = [of_numbers(int(x), int(y)) for x in members(a) for y in members(b)]
    step = np.broadcast_to(found.step, 1)[0]
    for result in results:
        assert found.lo[0] <= result <= found.hi[0]
        assert found.lo.dtype == bool or not step or (result - found.lo[0]) % step == 0
        assert found.lo.dtype == bool or step or result == found.lo[0]
    if len(results) == 1 and name != "join":
        assert found.lo[0] == found.hi[0]


def set_of(values):
    lo, hi, step = (int(np.broadcast_to(field, 1)[0]) for field in values)
    return set(range(lo, hi + 1, max(step, 1)))


@settings(derandomize=True, deadline=None, max_examples=200)
@given(sets, st.integers(-40, 40))
def test_cases_of_the_lesser_and_the_greater_are_exact(a, limit):
    """Together the two sets hold the results and nothing else, where one set holds more."""
    known = strided.exactly([limit])
    for in_cases, whole, of_numbers in (
        (strided.minimum_in_cases, strided.minimum, min),
        (strided.maximum_in_cases, strided.maximum, max),
    ):
        truth = {of_numbers(int(x), limit) for x in members(a)}
        for operands in ((a, known), (known, a)):
            cases = in_cases(*operands)
            if cases is None:
                assert set_of(whole(*operands)) == truth
            else:
                assert set_of(cases[0]) | set_of(cases[1]) == truth


def test_an_image_row_dealt_to_stripes_is_decided_at_its_border():
    """Centres pushed in at a border: of 1, 65, ..., 449 they are 3, 65, ..., 449, and columns 20,
    84, ..., 468 are 17 and more away. One set of the centres would be near everything."""
    centre = lambda x: jnp.clip(x, 3, 508)  # noqa: E731
    near = TracedMask(lambda b, h, q, k: jnp.abs(centre(q % 512) - k % 512) <= 9)
    stripe = lambda first: Strided(  # noqa: E731
        np.array([first]), np.array([first + 64 * 511]), np.asarray(64)
    )
    assert near.boxes(stripe(1), stripe(20)).hi.tolist() == [False]
    assert near.boxes(stripe(1), stripe(12)).hi.tolist() == [True]


def test_cases_of_two_values_meet_each_other():
    """`q` and `k` are each 0 or 5, by cases of their own: 0 + 5 is met, and 7 is no sum."""
    at_most = lambda x: jnp.minimum(x, 5)  # noqa: E731
    unlike = TracedMask(lambda b, h, q, k: at_most(q) + at_most(k) == 5)
    both = Strided(np.array([0]), np.array([40]), np.asarray(8))
    assert unlike.boxes(both, both).hi.tolist() == [True]
    never = TracedMask(lambda b, h, q, k: at_most(q) + at_most(k) == 7)
    assert never.boxes(both, both).hi.tolist() == [False]


@settings(derandomize=True, deadline=None, max_examples=200)
@given(sets, st.integers(1, 15))
def test_floor_division_and_remainder_are_tight(a, by):
    """A quotient's ends are its own; a remainder inside one period keeps its step."""
    values = members(a)
    quotient = strided.floor_divide(a, np.asarray(by))
    assert (quotient.lo[0], quotient.hi[0]) == (values[0] // by, values[-1] // by)
    rest = strided.floor_mod(a, np.asarray(by))
    found = set(range(int(rest.lo[0]), int(rest.hi[0]) + 1, max(int(rest.step[0]), 1)))
    period = by // np.gcd(by, int(a.step[0]))
    truth = {int(v) % by for v in values}
    assert truth <= found and (found == truth or 1 < len(values) < period)


@pytest.mark.parametrize("name", ["q // 64", "q % 64"])
def test_division_of_positions_is_read_as_a_whole(name):
    """JAX spells both in truncating primitives; read one by one, 0..503 // 64 would begin at −1."""
    low = {"q // 64": lambda q: q // 64, "q % 64": lambda q: q % 64}[name]
    q = Strided(np.array([0, 128]), np.array([503, 191]), np.asarray(1))
    at_least = TracedMask(lambda b, h, q, k: low(q) >= 0).boxes(q, q)
    assert at_least.lo.all()
    below = TracedMask(lambda b, h, q, k: low(q) < (3 if "//" in name else 64)).boxes(
        q, q
    )
    assert below.lo.tolist() == ["%" in name, True]


WRAPPING = {
    "cube": lambda b, h, q, k: q**3 > k * 1_000_003,
    "square": lambda b, h, q, k: lax.square(q) > lax.integer_pow(k, 2),
    "int8": lambda b, h, q, k: q.astype(jnp.int8) < k.astype(jnp.int8),
    "truncated": lambda b, h, q, k: (
        lax.div(q - 700, k - 650) + lax.rem(q - 700, k - 650) > 0
    ),
    "floored by a position": lambda b, h, q, k: (
        (q - 700) // (k + 1) + (700 - q) % (k + 1) > -3
    ),
    "shifts": lambda b, h, q, k: (q << (k % 40)) + (q >> (k % 7)) > (q ^ k | 5),
    "clip": lambda b, h, q, k: jnp.clip(q - k, -3, 5) == jnp.sign(k - q),
    "reductions": lambda b, h, q, k: (
        (jnp.sum(q >= jnp.arange(0, 1400, 97)) == jnp.sum(k >= jnp.arange(0, 1400, 97)))
        & jnp.any(jnp.arange(5) * 300 < q)
        & ~jnp.all(jnp.arange(5)[:, None] - jnp.arange(4)[None] != k % 7)
        & (jnp.max(jnp.abs(q - jnp.arange(0, 900, 300))) > jnp.min(k - jnp.arange(3)))
    ),
    "take": lambda b, h, q, k: jnp.take(jnp.asarray(TABLE), q - 690) == k % 4,
    "blocks": lambda b, h, q, k: jnp.asarray(BLOCKS)[q // 500, k // 500],
    "constants": lambda b, h, q, k: jnp.cumsum(jnp.arange(9))[q % 9] > k - 660,
}


@pytest.mark.parametrize("name", WRAPPING)
def test_points_are_jax_values_and_boxes_hold_them(name):
    """int32 wrap-around, XLA's division by zero, tables outside their range, reductions."""
    mask, rng = WRAPPING[name], np.random.default_rng(0)
    traced = TracedMask(mask)
    q, k = (rng.integers(0, 1400, (30, 1, 20)).astype(np.int32) for _ in range(2))
    q, k = q + np.arange(4, dtype=np.int32)[:, None], k * np.ones((4, 1), np.int32)
    flat = jax.vmap(mask, (None, None, 0, 0))(0, 0, q.reshape(-1), k.reshape(-1))
    truth = np.asarray(flat).reshape(q.shape)
    np.testing.assert_array_equal(traced.points(q, k), truth)
    points = traced.boxes(
        strided.exactly(q.reshape(-1)), strided.exactly(k.reshape(-1))
    )
    np.testing.assert_array_equal(points.lo, truth.reshape(-1))
    np.testing.assert_array_equal(points.hi, truth.reshape(-1))
    first = q[:, 0].reshape(-1).astype(np.int64)
    answer = traced.boxes(
        Strided(first, first + 3, strided.ONE), strided.exactly(k[:, 0].reshape(-1))
    )
    inside = truth.transpose(0, 2, 1).reshape(-1, 4)
    assert (answer.lo <= inside.all(1)).all() and (inside.any(1) <= answer.hi).all()


REFUSED = {
    "convert_element_type of float32; masks compute on int32 and bool": (
        lambda b, h, q, k: jnp.sin(q.astype(jnp.float32)) > 0
    ),
    "no rule for sort; write the mask with": lambda b, h, q, k: (
        jnp.sort(TABLE * q)[0] == k
    ),
    "depends on b or h, but all heads share": lambda b, h, q, k: k <= q + h,
    "returns int32[], not one bool": lambda b, h, q, k: q - k,
    "returns bool[11], not one bool": lambda b, h, q, k: q == TABLE,
    "dynamic_slice of more than one entry": (
        lambda b, h, q, k: jnp.all(lax.dynamic_slice(jnp.asarray(TABLE), [q], [2]) == k)
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_read_is_named(what):
    with pytest.raises(UnreadableMask) as error:
        TracedMask(REFUSED[what])
    assert isinstance(error.value, EmulationError)
    assert what in str(error.value)
    if "heads" not in what and "returns" not in what:
        assert "test_strided.py:" in str(error.value)


def test_heads_that_do_not_matter_are_fine():
    unused = TracedMask(lambda b, h, q, k: [h + b, k <= q][1])
    assert unused.points(3, 2) and not unused.points(2, 3)


def test_constant_masks():
    assert TracedMask(lambda b, h, q, k: jnp.bool_(True)).points(np.arange(3), 2).all()
    assert TracedMask(masks.full).boxes(*[strided.exactly(np.arange(3))] * 2).lo.all()


@pytest.mark.parametrize(
    ("mask", "relative"),
    [
        (masks.and_masks(masks.window(9), masks.negate(masks.dilated(3))), True),
        (masks.full, False),
        (masks.chunked(8), False),
        (lambda b, h, q, k: (k - q > -3) & (q == k), True),
        (lambda b, h, q, k: q - q == k - k, False),
        (lambda b, h, q, k: jnp.minimum(q, k) > 2, False),
    ],
)
def test_masks_of_differences_are_told_apart(mask, relative):
    assert TracedMask(mask).relative is relative
