"""Arg-max along a chain: the lowest of equals, times by hand and by simulation."""

from typing import Any

import jax.numpy as jnp
from hypothesis import given, settings
from hypothesis import strategies as st

from emu import Program, wse
from emu.wse import WSE3
from emu.wse.collectives.chain_argmax.arrival import relay
from emu.wse.timeline.wires import wires
from tests.emu.wse.collectives import line_simulation as simulated
from tests.emu.wse.collectives.line_simulation import as_line
from tests.emu.wse.collectives.on_timeline import LINE, like
from tests.emu.wse.collectives.strategies import SHEETS, skews


def test_chain_argmax_breaks_ties_low() -> None:
    top = jnp.array([1, 7, 3, 7, 2], jnp.float32)[:, None]
    at = jnp.array([4, 31, 5, 30, 6], jnp.int32)[:, None]

    def call(v: Any, i: Any) -> Any:
        return wse.chain_argmax(like(v), like(i), v, i, axis="row")

    program = Program(call, {"row": 5}, (LINE, LINE), (LINE, LINE))
    value, index = program.run(top, at)
    assert (float(value[0, 0]), int(index[0, 0])) == (7.0, 30)
    # A stage of 7, a second word and its cycle, a drain, two compares, a branch and a set-up.
    stage = 7 + 2 + 4 + 2 * 2 + 6 + 4
    # PE 0 takes two words and compares; nobody sends after it.
    assert program.read(WSE3.at(), top, at).end_ticks == 24 + 4 + 4 * stage - 4


@settings(max_examples=60, deadline=None)
@given(SHEETS, skews(2), st.integers(1, 6))
def test_every_word_is_where_the_formula_says(
    sheet: Any, armed: list[int], words: int
) -> None:
    w = wires(sheet.at())
    ways = [simulated.Way(w, 1) for _ in armed]  # way i leads to PE i
    pes = [simulated.Pe(armed[-1], [(None, ways[-2])], words)]
    for i in range(len(armed) - 2, -1, -1):
        out: list[Any] = [(None, ways[i - 1])] if i else []
        pes.insert(0, simulated.Pe(armed[i], [(ways[i], None), *out], words))
    got = relay(as_line(armed), words, 0, w)[0, :, 0]
    assert got.tolist() == simulated.run(pes, ways, w)
