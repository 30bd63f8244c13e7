"""Instructions that move no data but take an engine's time: semaphores and activation tables."""

from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, instruction
from emu.trainium.engines.operators import UNARY, named

ENGINES = ("tensor", "vector", "scalar", "gpsimd")


def _semaphore_cost(device: Device, *, engine: str) -> Cost:
    if engine not in ENGINES:
        raise LimitExceeded(
            f"trn.semaphore: engine is {engine!r}, must be one of {', '.join(ENGINES)}"
        )
    ticks = device.ticks(device.semaphore_s)
    return Cost(engine=engine, busy_cycles=ticks / device.ticks_per_cycle[engine])


@instruction("trn.semaphore", cost=_semaphore_cost, reads=(), writes=(), effect=True)
def semaphore(*, engine: str) -> tuple[()]:
    """An explicit EVENT_SEMAPHORE on an engine: tensor, vector, scalar or gpsimd.

    Waits between instructions need none: the clock derives them from the data, and every
    instruction's `handover_cycles` are what signalling its result costs.
    """
    return ()


def _table_cost(device: Device, *, op: str) -> Cost:
    named(UNARY, "trn.activation_table_load", "op", op)
    return Cost(engine="scalar", busy_cycles=device.act_table_load_s * device.scalar_hz)


@instruction(
    "trn.activation_table_load", cost=_table_cost, reads=(), writes=(), effect=True
)
def activation_table_load(*, op: str) -> tuple[()]:
    """Loads the table of function `op` into the Scalar Engine; a warm kernel has it.

    Takes the time measured in a profile, `act_table_load_s`, whatever the function.
    """
    return ()
