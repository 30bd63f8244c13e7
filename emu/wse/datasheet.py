"""The wafers' numbers: one PE of a WSE-2 and a WSE-3, its fabric, clock and memory.

Sources, by the short names used below: *HPDC'24* arXiv 2404.15888; *WaferLLM* arXiv 2502.04563
(OSDI'25); *FABRICA* arXiv 2608.25124 and github luozoupi/FABRICA-CUDA2CSL (vendor simulator and
third-party silicon runs); *csl-examples* github Cerebras/csl-examples; *MIMD_dataflow* github
lingzhi227/MIMD_dataflow (vendor simulator); *Hot Chips 34* the vendor's 2022 talk.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from emu.datasheet import Quantity, Sheet

ENGINE = "datapath"
SIMULATOR, SILICON = "vendor simulator", "silicon"


def _engines() -> dict[str, str | None]:
    return {ENGINE: "clock_hz"}


def _capacity() -> dict[str, str | None]:
    return {"sram": "sram_bytes"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class WaferSheet(Sheet):
    """One PE and its router. A tick is a cycle; the single engine is the vector datapath.

    Attributes:
      clock_hz: core clock; a band because it is a power setting, not a constant.
      sram_bytes: memory of one PE, which holds code, weights, cache and buffers.
      code_bytes: what the program itself takes of it.
      grid_width, grid_height: largest rectangle of PEs that a program may use.
      hop_cycles: a wavelet's time from router to router.
      ramp_cycles: between a PE and its router, each way.
      router_queue_words: wavelets of one colour that a router holds.
      input_queue_words, output_queue_words: the same of a PE's queues, by queue id.
      colors: routes that a program may use at a router.
      send_words: wavelets that a memory-to-fabric operation issues in one cycle.
      vector_setup_cycles: from a vector operation's dispatch to its first element.
      vector_drain_cycles: from its last element to the next instruction's dispatch.
      fabric_setup_cycles: as `vector_setup_cycles`, of an operation with a fabric operand.
      async_cycles: from the dispatch of an operation on a microthread to the next instruction.
      task_switch_cycles: from the completion that activates a task to its first instruction.
      timestamp_cycles: reading the 48-bit time counter.
      role_cycles: setting a base address and the branches that pick a PE's part in a collective.
      stream_cycles: distance of two wavelets of one stream.
      wide_cycles: distance of two issues of a microthread's 64-bit move.
      instruction_cycles: a scalar instruction that waits for nothing.
      descriptor_load_cycles: loading one data-structure register.
      half_per_cycle: 16-bit elements of vector arithmetic, issued in groups of 8.
      single_cycles: cycles of one 32-bit element of vector arithmetic.
      mixed_cycles: cycles of one 16-bit multiply added up in float32.
      move_bytes_per_cycle: rate of copies and fills.
      bank_conflict_factor: datapath cycles of an element whose sources share a memory bank.
      callback_cycles: a hardware loop's (`@map`) overhead per vector operation on 16-bit sources.
      callback_single_cycles: the same on 32-bit sources.
      dot_cycles, fold_cycles: per element of multiply-and-reduce, and of reduce, to a scalar.
      loop_cycles: a software loop's back-edge.
      branch_cycles: a taken branch.
      scalar_cycles: a dependent scalar add, multiply or compare.
      divide_cycles, sqrt_cycles, exp_cycles: scalar float code.
      io_bytes_per_s: the whole wafer's Ethernet.
      constants: what the numbers were measured on, where simulator and silicon differ.
    """

    core: str = "PE"
    home: str = "sram"
    tick_hz: int | None = None
    engines: Mapping[str, str | None] = dataclasses.field(default_factory=_engines)
    capacity: Mapping[str, str | None] = dataclasses.field(default_factory=_capacity)
    constants: str = SIMULATOR

    clock_hz: Quantity
    grid_width: Quantity
    grid_height: Quantity
    hop_cycles: Quantity
    input_queue_words: Quantity
    output_queue_words: Quantity
    send_words: Quantity
    fabric_setup_cycles: Quantity
    timestamp_cycles: Quantity
    descriptor_load_cycles: Quantity
    half_per_cycle: Quantity
    single_cycles: Quantity
    move_bytes_per_cycle: Quantity
    bank_conflict_factor: Quantity
    callback_cycles: Quantity
    callback_single_cycles: Quantity
    vector_setup_cycles: Quantity = Quantity(
        2, "derived", "FABRICA simulator traces: completion 2 + 2*n/8"
    )
    vector_drain_cycles: Quantity = Quantity(
        4, "derived", "FABRICA simulator traces: issue 6 + 2*ceil(n/8); WSE-2 float32 6 + n"
    )
    stream_cycles: Quantity = Quantity(
        1, "measured", "FABRICA: 1.0 cycle a wavelet in the simulator, 1.125 in silicon"
    )
    wide_cycles: Quantity = Quantity(
        4, "fitted",
        "wse-0091 wse-0112 wse-0136 wse-0139 wse-0160 wse-0184: MeshGEMM without compute, two "
        "wavelets in four cycles", 3, 5,
    )  # fmt: skip
    instruction_cycles: Quantity = Quantity(1, "measured", "FABRICA: issue 1, dependent 2")
    router_queue_words: Quantity = Quantity(
        2, "assumed", "one wavelet going, one coming; not published", 4, 1
    )
    colors: Quantity = Quantity(24, "published", "csl-examples: routable colours 0-23")
    async_cycles: Quantity = Quantity(
        2, "assumed", "as the set-up of a synchronous operation; not published", 1, 6
    )
    task_switch_cycles: Quantity = Quantity(
        0,
        "derived",
        "FABRICA: a send of 8 words over 1 hop starts its task after 19 cycles, "
        "which leaves nothing for the switch",
        0,
        10,
    )
    role_cycles: Quantity = Quantity(
        20, "derived", "an address (2) and three taken branches (6 each)", 8, 26
    )
    mixed_cycles: Quantity = Quantity(
        0.5, "derived", "the 64-bit write port takes two float32 a cycle; high: as float32", 0.5, 1
    )
    ramp_cycles: Quantity = Quantity(2, "published", "HPDC'24: T_R = 2 (WSE-2)")
    sram_bytes: Quantity = Quantity(49_152, "published", "48 KiB a PE, Hot Chips 34")
    code_bytes: Quantity = Quantity(
        4_176, "measured", "smallest memcpy program in the vendor simulator", 4_176, 10_240
    )
    dot_cycles: Quantity = Quantity(2.25, "measured", "FABRICA: multiply and reduce, simulator")
    fold_cycles: Quantity = Quantity(2, "measured", "FABRICA: reduce to a scalar, simulator")
    loop_cycles: Quantity = Quantity(10, "measured", "FABRICA: loop back-edge 9-10", 9, 10)
    branch_cycles: Quantity = Quantity(6, "measured", "FABRICA: taken branch 6, no predictor")
    scalar_cycles: Quantity = Quantity(2, "measured", "FABRICA: dependent floating-point 2")
    divide_cycles: Quantity = Quantity(50, "published", "csl-examples: scalar f32 divide about 50")
    sqrt_cycles: Quantity = Quantity(
        50, "assumed", "as a divide; the vendor's library is not published", 25, 100
    )
    exp_cycles: Quantity = Quantity(
        40, "assumed", "tens of cycles: range split and a short polynomial", 15, 100
    )
    io_bytes_per_s: Quantity = Quantity(150e9, "published", "12 x 100 GbE")


def _wafer(**fields: Any) -> WaferSheet:
    return WaferSheet(**fields)


WSE3 = _wafer(
    name="WSE-3",
    clock_hz=Quantity(
        1_100_000_000, "derived",
        "64-CS-3 stencil peak (arXiv 2511.11542) implies 1.105 GHz; SDK runs 875 MHz; inference "
        "power profiles of cerebras-appliance 2.10.0 reach 1.2 GHz", 1_200_000_000, 875_000_000,
    ),
    grid_width=Quantity(755, "derived", "csl-examples: fabric 762 wide, 7 columns of plumbing"),
    grid_height=Quantity(1_170, "derived", "csl-examples: fabric 1172 high, 2 rows reserved"),
    hop_cycles=Quantity(2, "measured", "FABRICA: 2.000 cycles a hop over 1-128 hops"),
    input_queue_words=Quantity((8, 8, 4, 4, 4, 4, 4, 4), "published", "SDK tables"),
    output_queue_words=Quantity((8,) * 8, "published", "SDK tables"),
    send_words=Quantity(2, "derived", "MeshGEMM's 64-bit moves: 4 fp16 a datapath cycle"),
    fabric_setup_cycles=Quantity(
        4, "derived", "FABRICA: 7 from a send's dispatch to the link, less the push and a ramp"
    ),
    timestamp_cycles=Quantity(
        17, "assumed", "as on WSE-2, whose reduces show it; not published", 3, 30
    ),
    descriptor_load_cycles=Quantity(
        4, "measured", "FABRICA: descriptor register load to use 4", 1, 10
    ),
    half_per_cycle=Quantity(4, "measured", "FABRICA: simulator 4, silicon 2.92", 4, 2.92),
    single_cycles=Quantity(
        1, "derived", "one float32 FMAC a cycle; simulator 2 with a bank conflict", 1, 2
    ),
    move_bytes_per_cycle=Quantity(
        16, "measured", "FABRICA: move N/8 fp16, N/4 fp32; silicon N/4.82", 16, 9.64
    ),
    bank_conflict_factor=Quantity(1, "measured", "FABRICA: the simulator has no bank conflicts"),
    async_cycles=Quantity(
        3, "fitted", "wse-0092 wse-0140 wse-0236: what communication adds to MeshGEMM's steps", 1, 6
    ),
    callback_cycles=Quantity(
        6, "measured", "FABRICA and MeshGEMM sweeps: 6 + 2*ceil(n/8) a callback"
    ),
    callback_single_cycles=Quantity(6, "assumed", "as 16-bit; WSE-2 shows about 1", 1, 6),
)  # fmt: skip

WSE2 = _wafer(
    name="WSE-2",
    clock_hz=Quantity(
        850_000_000, "published", "HPDC'24; csl-examples. 1.1 GHz at most (Hot Chips 34)",
        1_100_000_000, 850_000_000,
    ),
    grid_width=Quantity(750, "derived", "csl-examples: fabric 757 wide, 7 columns of plumbing"),
    grid_height=Quantity(994, "derived", "csl-examples: fabric 996 high, 2 rows reserved"),
    hop_cycles=Quantity(1, "published", "HPDC'24"),
    input_queue_words=Quantity((6, 6, 4, 4, 2, 2, 2, 2), "published", "SDK tables"),
    output_queue_words=Quantity((2, 2, 6, 6, 2, 2), "published", "SDK tables"),
    send_words=Quantity(1, "assumed", "one 32-bit wavelet an issue", 2, 1),
    fabric_setup_cycles=Quantity(
        17, "fitted", "wse-0001 wse-0003 wse-0005 wse-0007 wse-0011 wse-0013 wse-0015 wse-0017: "
        "21 from an operation's last element to the next one's first, less the drain", 13, 21,
    ),
    timestamp_cycles=Quantity(
        17, "fitted", "wse-0009: 52 before the first element of a reduce, less two descriptor "
        "loads and the set-up", 10, 24,
    ),
    descriptor_load_cycles=Quantity(
        9, "derived", "MIMD_dataflow: 34 + n with three loads, 6 + n without", 4, 10
    ),
    half_per_cycle=Quantity(4, "published", "two 64-bit reads and one write a cycle, 4 lanes"),
    single_cycles=Quantity(
        1, "measured", "MIMD_dataflow: 6 + n; 6 + 2n with a bank conflict", 1, 2
    ),
    move_bytes_per_cycle=Quantity(8, "assumed", "one 64-bit write a cycle", 16, 8),
    bank_conflict_factor=Quantity(2, "measured", "wse-0057, wse-0058: 6 + 2n against 6 + n"),
    callback_cycles=Quantity(6, "derived", "WaferLLM's MeshGEMM sweeps: 6 + 2*ceil(n/8)"),
    callback_single_cycles=Quantity(
        1, "fitted", "wse-0045, wse-0047: rows + 1.15 a callback and 35 of set-up", 1, 2
    ),
)  # fmt: skip

_SILICON = {
    "WSE-3": {
        "half_per_cycle": Quantity(2.92, "measured", "FABRICA: fmach N/2.92 in silicon"),
        "move_bytes_per_cycle": Quantity(9.64, "measured", "FABRICA: move N/4.82 fp16 in silicon"),
        "bank_conflict_factor": Quantity(
            1.94, "measured", "FABRICA: 1.94 times as long in silicon, 2.86 at worst", 1.94, 2.86
        ),
        "stream_cycles": Quantity(
            1.125, "measured", "FABRICA: one way 33 + 2.0 a hop + 1.125 a wavelet in silicon"
        ),
    }
}


def on_silicon(sheet: WaferSheet) -> WaferSheet:
    """The sheet with what was measured in silicon in place of the vendor simulator's constants.

    Raises:
      ValueError: a wafer for which no such measurement has been published.
    """
    if sheet.name not in _SILICON:
        raise ValueError(
            f"{sheet.name} has no published constants of its silicon, must be one of "
            f"{', '.join(_SILICON)}; read it with the vendor simulator's"
        )
    return dataclasses.replace(sheet, constants=SILICON, **_SILICON[sheet.name])


def at_clock(sheet: WaferSheet, hz: int) -> WaferSheet:
    """The sheet at one clock, which is a setting of a run and then has no band."""
    return dataclasses.replace(sheet, clock_hz=Quantity(hz, "published", "set by the user"))


WSE3_SILICON = on_silicon(WSE3)

__all__ = [
    "ENGINE", "SILICON", "SIMULATOR", "WSE2", "WSE3", "WSE3_SILICON", "WaferSheet", "at_clock",
    "on_silicon",
]  # fmt: skip
