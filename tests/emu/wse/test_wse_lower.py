"""Scalar functions on a PE: values against float64 NumPy, where each operation runs, refusals."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu import Known, Program, lower
from emu.lower import CannotLower, Elementwise, Input
from emu.wse import WSE3
from emu.wse.lower import ARRIVING, DATA, KEPT, Argument, Lowered
from emu.wse.lower import lower as on_pe

ROWS, SLOTS, LIVE = 3, 14, 11
POS, FIRST_HEAD, STRIDE = 90, 4, 7
HEADS = np.arange(ROWS) + FIRST_HEAD
KEYS = np.arange(SLOTS) * STRIDE
SLOPES = np.linspace(0.1, 1, 8, dtype=np.float32)
BIAS = np.linspace(-1, 1, 8 * 100, dtype=np.float32).reshape(8, 100)
INPUTS = [
    Input("s", frozenset("qk"), jnp.float32),
    Input("h", frozenset(), jnp.int32),
    Input("q", frozenset("q"), jnp.int32),
    Input("k", frozenset("k"), jnp.int32),
]
ARGUMENTS: Mapping[str, Argument] = {
    "s": Argument(DATA, rows=True, slots=True),
    "h": Argument(KEPT, rows=True, bounds=(0, 7)),
    "q": Argument(ARRIVING, bounds=(0, POS)),
    "k": Argument(KEPT, slots=True, bounds=(0, POS)),
}
SCORES = np.random.default_rng(0).standard_normal((ROWS, SLOTS)).astype(np.float32)
Score = Callable[..., Any]


def read(score: Score) -> Elementwise:
    return lower.read(score, INPUTS, "score of mine")


def lowered(score: Score, slots: int = SLOTS) -> Lowered:
    device = WSE3.at()
    return on_pe(read(score), ARGUMENTS, rows=ROWS, slots=slots, device=device)


def operands(low: Lowered) -> tuple[Any, ...]:
    """The scores, every leaf's tile and the live slots."""
    lies = {"h": HEADS, "q": np.array([POS]), "k": KEYS}
    tiles = {}
    for key, leaf in low.leaves.items():
        along = {
            name: values
            for name, values in lies.items()
            if not leaf.flat and low.function.depends_on(leaf.operand, name)
        }
        values = leaf.values(low.function, along)
        rows, slots = leaf.shape
        if not leaf.flat:
            values = values.reshape(ROWS if rows else 1, SLOTS if slots else 1)
        tiles[key] = jnp.asarray(values)
    return {"s": jnp.asarray(SCORES)}, tiles, Known(np.int32(LIVE))


def program(low: Lowered) -> Program:
    return Program(low.run, {"row": 1, "col": 1}, ((), (), ()))


def run(low: Lowered) -> np.ndarray:
    got = np.asarray(program(low).run(*operands(low)))[0, 0]
    return np.broadcast_to(got, (ROWS, SLOTS))[:, :LIVE]


def cycles(score: Score) -> int:
    low = lowered(score)
    return program(low).read(WSE3.at(), *operands(low)).end_ticks


def placed(low: Lowered) -> list[str]:
    return [f"{step.node.op} {'v' if step.vector else 's'}" for step in low.steps]


def alibi(s: Any, h: Any, q: Any, k: Any) -> Any:
    return s - jnp.asarray(SLOPES)[h] * (q - k)


def capped(s: Any, h: Any, q: Any, k: Any) -> Any:
    return 20 * jnp.tanh(s / 20)


def relative(s: Any, h: Any, q: Any, k: Any) -> Any:
    return s + jnp.asarray(BIAS)[h, (q - k) // 2]


def many(s: Any, h: Any, q: Any, k: Any) -> Any:
    far = (q - k) % 3 == 1
    near = ~(far | (q - k >= 40)) & (k > 3)
    warm = jnp.where(near, s**3, jnp.clip(-s, -1, 1) / (1 + abs(s)))
    return warm * jnp.log(q + 2.0) + jnp.minimum(jnp.exp(s), k) + far


def test_values() -> None:
    s = SCORES[:, :LIVE].astype(np.float64)
    h, k = HEADS[:, None], KEYS[None, :LIVE]
    far = (POS - k) % 3 == 1
    near = ~(far | (POS - k >= 40)) & (k > 3)
    warm = np.where(near, s**3, np.clip(-s, -1, 1) / (1 + abs(s)))
    cases = {
        alibi: s - SLOPES[h].astype(np.float64) * (POS - k),
        capped: 20 * np.tanh(s / 20),
        relative: s + BIAS[h, (POS - k) // 2],
        many: warm * np.log(POS + 2) + np.minimum(np.exp(s), k) + far,
    }
    for score, expected in cases.items():
        got = run(lowered(score)).astype(np.float64)
        error = np.abs(got - expected).max() / np.abs(expected).max()
        assert error <= 1e-6, score.__name__


def test_masks_are_bits() -> None:
    def mask(s: Any, h: Any, q: Any, k: Any) -> Any:
        return ((q - k < 30) & (h != 5)) | (k < 8)

    got = run(lowered(mask))
    h, k = HEADS[:, None], KEYS[None, :LIVE]
    assert got.dtype == np.int16
    assert (got == -(((POS - k < 30) & (h != 5)) | (k < 8)).astype(int)).all()


def test_what_is_known_before_a_token_is_kept() -> None:
    low = lowered(alibi)
    by_shape = {leaf.shape: leaf.when for leaf in low.leaves.values()}
    # A slope a row, a position a slot, and the query's position.
    assert by_shape == {
        (True, False): KEPT,
        (False, True): KEPT,
        (False, False): ARRIVING,
    }
    assert placed(low) == ["sub v", "mul v", "sub v"]
    # 3 loads and an issue each: over the slots, then twice over all scores.
    assert cycles(alibi) == 3 * (3 * 4 + 6) + LIVE + 2 * ROWS * LIVE


def test_what_heads_of_a_tile_share_is_kept_once() -> None:
    def by_group(s: Any, h: Any, q: Any, k: Any) -> Any:
        return s * jnp.asarray(BIAS)[h // 4, k]

    arguments = {**ARGUMENTS, "h": Argument(KEPT, rows=True, bounds=(0, 7))}
    aligned = Argument(KEPT, rows=True, bounds=(0, 7), aligned=True)
    shapes = {}
    for rows, argument in ((4, aligned), (8, aligned), (4, arguments["h"])):
        low = on_pe(
            read(by_group),
            {**arguments, "h": argument},
            rows=rows,
            slots=SLOTS,
            device=WSE3.at(),
        )
        (leaf,) = low.leaves.values()
        shapes[rows, argument.aligned] = leaf.shape
    # One bias for 4 heads, two for 8; rows that begin anywhere may be of two groups.
    assert shapes == {
        (4, True): (False, True),
        (8, True): (True, True),
        (4, False): (True, True),
    }


def test_a_division_by_a_number_a_row_is_one_a_row() -> None:
    inputs = [
        Input("o", frozenset("qd"), jnp.float32),
        Input("z", frozenset("q"), jnp.float32),
    ]
    function = lower.read(lambda o, z: o / (z + 1), inputs, "finish of mine")
    arguments = {
        "o": Argument(DATA, rows=True, slots=True),
        "z": Argument(DATA, rows=True),
    }
    low = on_pe(function, arguments, rows=ROWS, slots=SLOTS, device=WSE3.at())
    assert placed(low) == ["add s", "div s", "mul v"] and low.data == {"o", "z"}
    o, z = SCORES, np.abs(SCORES[:, :1])
    tiles = {key: jnp.full((1, 1), 1.0) for key in low.leaves}
    data = {"o": jnp.asarray(o), "z": jnp.asarray(z)}
    call = Program(low.run, {"row": 1, "col": 1}, ((), (), ()))
    got = np.asarray(call.run(data, tiles, Known(np.int32(SLOTS))))[0, 0]
    expected = o.astype(np.float64) / (z + 1)
    assert np.abs(got - expected).max() <= 1e-6 * np.abs(expected).max()


def test_the_identity_runs_nothing() -> None:
    low = lowered(lambda s, h, q, k: s)
    assert low.is_identity and not low.steps
    kept = lowered(lambda s, h, q, k: s + jnp.asarray(BIAS)[h, k])
    assert placed(kept) == ["add v"]  # the bias of every slot lies there


def test_scalar_code_is_one_loop() -> None:
    def between(s: Any, h: Any, q: Any, k: Any) -> Any:
        return jnp.exp(jnp.tanh(s) * 2 + 1) * 3

    low = lowered(between)
    assert placed(low) == ["tanh s", "mul s", "add s", "exp s", "mul v"]
    assert [step.opens for step in low.steps] == [True, False, False, False, False]
    n = ROWS * LIVE
    loop = n * (10 + (60 + 50 + 4 * 2) + 2 + 2 + 60)
    assert cycles(between) == loop + 3 * 4 + 6 + n


def test_few_scores_take_all_in_the_loop() -> None:
    def score(s: Any, h: Any, q: Any, k: Any) -> Any:
        return jnp.tanh(s * 2) * 3

    assert placed(lowered(score)) == ["mul v", "tanh s", "mul v"]
    assert placed(lowered(score, slots=4)) == ["mul s", "tanh s", "mul s"]


def test_more_arithmetic_is_never_faster() -> None:
    steps: list[Callable[[Any, Any], Any]] = [
        lambda s, d: s + d,
        lambda s, d: jnp.maximum(s, -3.0),
        lambda s, d: jnp.tanh(s),
        lambda s, d: s * 2,
        lambda s, d: jnp.where(d % 3 == 0, s, 0.5 * s),
        lambda s, d: jnp.floor(s),
        lambda s, d: jnp.minimum(s, 1.0),
        lambda s, d: jnp.exp(s),
    ]
    rng = np.random.default_rng(0)
    for _ in range(4):
        order = rng.permutation(len(steps))
        times = []
        for count in range(len(steps) + 1):

            def score(s: Any, h: Any, q: Any, k: Any, count: int = count) -> Any:
                for place in order[:count]:
                    s = steps[place](s, q - k)
                return s

            times.append(cycles(score))
        assert times == sorted(times) and times[0] == 0


def test_refusals_name_the_line() -> None:
    def hyperbolic(s: Any, h: Any, q: Any, k: Any) -> Any:
        return s + jnp.sinh(s)

    def narrow(s: Any, h: Any, q: Any, k: Any) -> Any:
        return s.astype(jnp.bfloat16) * 2

    def whole_row(s: Any, h: Any, q: Any, k: Any) -> Any:
        return s + jnp.sum(jnp.asarray(BIAS)[h] * s)

    def by_score(s: Any, h: Any, q: Any, k: Any) -> Any:
        return jnp.asarray(SLOPES)[jax.lax.convert_element_type(s, jnp.int32)]

    line = hyperbolic.__code__.co_firstlineno
    here = "test_wse_lower.py"
    with pytest.raises(
        CannotLower, match=f"no instruction for sinh.*{here}:{line + 1}"
    ):
        lowered(hyperbolic)
    with pytest.raises(CannotLower, match=f"bfloat16.*{here}:{line + 4}"):
        lowered(narrow)
    with pytest.raises(CannotLower, match=f"for each score.*{here}:{line + 7}"):
        lowered(whole_row)
    assert placed(lowered(by_score))[-1] == "lookup s"


def test_a_row_of_a_table_that_lies_as_slots_do() -> None:
    table = np.random.default_rng(1).standard_normal((8, 5, 100)).astype(np.float32)
    near = table > 0

    def by_query(s: Any, h: Any, q: Any, k: Any) -> Any:
        return s + jnp.asarray(table)[h, q % 5, k]

    def by_query_alone(s: Any, h: Any, q: Any, k: Any) -> Any:
        return jnp.where(jnp.asarray(near)[0, q % 5, k], s, 0.0)

    expected = {
        by_query: SCORES + table[HEADS[:, None], POS % 5, KEYS],
        by_query_alone: np.where(near[0, POS % 5, KEYS], SCORES, 0),
    }
    for score, wanted in expected.items():
        low = lowered(score)
        assert placed(low)[0] == "row v"
        # Of the whole array, what belongs to 3 heads and 14 slots, and to 14 slots: 5 entries.
        (leaf,) = [x for x in low.leaves.values() if x.entries == 5]
        rows = ROWS if leaf.shape[0] else 1
        lies = {"h": HEADS, "k": KEYS}
        along = {x: lies[x] for x in lies if leaf.depends_on(low.function, x)}
        own = leaf.values(low.function, along).reshape(rows, SLOTS, 5)
        tile = jnp.asarray(np.moveaxis(own, 2, 1).reshape(rows * 5, SLOTS))
        arriving = {
            key: jnp.full((1, 1), x.values(low.function, {"q": np.array([POS])}).item())
            for key, x in low.leaves.items()
            if x is not leaf
        }
        data = {"s": jnp.asarray(SCORES)}
        leaves = {leaf.key: tile, **arriving}
        live = Known(np.int32(LIVE))
        call = Program(low.run, {"row": 1, "col": 1}, ((), (), ()))
        got = np.asarray(call.run(data, leaves, live))[0, 0][:, :LIVE]
        assert (got == wanted[:, :LIVE]).all()
