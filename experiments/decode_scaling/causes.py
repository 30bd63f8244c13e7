"""Where a token's cycles go: what would be left if one thing after another took no time.

The clock is read again for a wafer on which hops take no cycle, then for one on which ramps take
none either, and so on. What each step saves is that cause's share, and all shares and the rest add
up to the whole. A later cause's share is what it still costs once those before it cost nothing:
where a hop and a vector operation overlap, what counts is the order below.

A layer of Llama 3.1 8B behind 4,096 tokens on 192 x 512 PEs takes 13,301 cycles, 7,432 without hops
and 6,812 without ramps: hops are 5,869 of them and ramps 620.
"""

import dataclasses
from collections.abc import Callable, Mapping

from emu.datasheet import Quantity
from emu.wse import WaferSheet
from experiments.decode_scaling.resident import Resident
from kernels.wse.decode.plan import Way
from kernels.wse.decode.token import HOST, TokenClock, layer_phase

REST = "words and arithmetic"
"""What no cause names: each word's cycle on a link or a datapath, and SRAM's ports."""

CAUSES: Mapping[str, tuple[str, ...]] = {
    "hops": ("hop_cycles",),
    "ramps": ("ramp_cycles",),
    "starts of reductions": (
        "fabric_setup_cycles",
        "role_cycles",
        "task_switch_cycles",
        "async_cycles",
    ),
    "scalar code": (
        "scalar_cycles",
        "divide_cycles",
        "sqrt_cycles",
        "exp_cycles",
        "function_cycles",
        "branch_cycles",
        "untaken_branch_cycles",
    ),
    "loops": ("loop_cycles", "callback_cycles", "callback_single_cycles"),
    "vector set-up": (
        "vector_setup_cycles",
        "vector_drain_cycles",
        "dependent_cycles",
        "descriptor_load_cycles",
        "instruction_cycles",
    ),
}
"""Of each cause, the datasheet's fields that are set to zero for it."""


def without(sheet: WaferSheet, fields: tuple[str, ...]) -> WaferSheet:
    """The wafer on which these take no time."""
    nothing = Quantity(0, "assumed", "taken away, to see what it costs", 0, 0)
    return dataclasses.replace(sheet, **dict.fromkeys(fields, nothing))


def shares(sheet: WaferSheet, cycles: Callable[[WaferSheet], int]) -> dict[str, int]:
    """Cycles by cause, which add up to those of the whole.

    Args:
      sheet: the wafer's, read at its nominal numbers.
      cycles: what something takes on a wafer.
    """
    left = cycles(sheet)
    found: dict[str, int] = {}
    for cause, fields in CAUSES.items():
        sheet = without(sheet, fields)
        then = cycles(sheet)
        # Negative where a faster part makes others meet that did not before.
        found[cause] = left - then
        left = then
    found[REST] = left
    return found


CROSSINGS = "wafer to wafer"
WALKS = "region to region"
ENDS = "embedding and head"
BESIDE = Way(0, crosses=False)
"""A region that touches the one before."""


def of_token(model: Resident) -> dict[str, int]:
    """The cycles of a token's step by cause, nominal.

    Layers are told apart by cause as they are where each region touches the one before; what the
    ways between regions take beyond that are causes of their own.
    """
    pos = model.position
    stages, plan = model.clock.stages(pos), model.plan

    def layer_cycles(sheet: WaferSheet) -> list[int]:
        clock = TokenClock(plan, sheet.at())
        kinds = range(len(plan.kinds))
        return [
            clock.one(layer_phase(kind), "nominal", pos, BESIDE).end_ticks
            for kind in kinds
        ]

    def layers(sheet: WaferSheet) -> int:
        own = layer_cycles(sheet)
        return sum(own[kind] for kind in plan.of_layers)

    beside = layer_cycles(model.sheet)
    found = {CROSSINGS: 0, WALKS: 0, ENDS: 0, HOST: 0}
    embed, *of_layers, head, host = stages
    for stage, kind in zip(of_layers, plan.of_layers, strict=True):
        found[CROSSINGS if stage.crosses else WALKS] += stage.cycles - beside[kind]
    found[ENDS] = embed.cycles + head.cycles
    found[HOST] = host.cycles
    return found | shares(model.sheet, layers)


__all__ = ["CAUSES", "REST", "of_token", "shares", "without"]
