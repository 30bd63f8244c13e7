"""Semaphores and activation tables: engine time without data."""

import jax
import jax.numpy as jnp
import pytest

from emu import Program
from emu.errors import LimitExceeded
from emu.trainium import isa
from emu.trainium.datasheets import TRN1, TRN2
from emu.trainium.engines.memory import dma_load, dma_store, sbuf
from tests.helpers import adds_up

TILE = jax.ShapeDtypeStruct((128, 64), jnp.float32)


def ticks(sheet, before):
    """Engine to its working ticks in a kernel that has `before` in front of an activation."""

    def kernel(x):
        before()
        tile = dma_load(sbuf(128, 64), x)
        return dma_store(isa.activation(sbuf(128, 64), tile, op="exp"))

    clock = Program(kernel, {"core": 1}, ((),)).read(sheet.at(), TILE)
    adds_up(clock)
    return {
        e: clock.spent.get((e, "work"), 0)
        for e in ("tensor", "vector", "scalar", "gpsimd")
    }


@pytest.mark.parametrize("sheet, seconds", [(TRN1, 0.37e-6), (TRN2, 1.29e-6)])
def test_table_load_keeps_the_scalar_engine_busy(sheet, seconds):
    plain = ticks(sheet, lambda: None)["scalar"]
    loaded = ticks(sheet, lambda: isa.activation_table_load(op="exp"))["scalar"]
    assert loaded - plain == round(seconds * sheet.tick_hz)


@pytest.mark.parametrize("engine", ["tensor", "vector", "scalar", "gpsimd"])
def test_semaphore_takes_nine_nanoseconds_of_its_engine(engine):
    signalled = ticks(TRN2, lambda: isa.semaphore(engine=engine))[engine]
    # 43.2 of 4.8 a nanosecond, whole.
    assert signalled - ticks(TRN2, lambda: None)[engine] == 44


def test_semaphore_of_no_engine():
    with pytest.raises(LimitExceeded, match="engine is 'dma', must be one of tensor"):
        ticks(TRN2, lambda: isa.semaphore(engine="dma"))
