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
      queue_words: wavelets that wait between two neighbours before the sender stalls.
      vector_setup_cycles: distance from one vector operation's issue to the next, without its
        elements.
      descriptor_load_cycles: loading one data-structure register.
      half_per_cycle: 16-bit elements of vector arithmetic, issued in groups of 8.
      single_cycles: cycles of one 32-bit element of vector arithmetic.
      mixed_cycles: cycles of one 16-bit multiply added up in float32.
      move_bytes_per_cycle: rate of copies and fills.
      callback_cycles: a hardware loop's (`@map`) overhead per vector operation on 16-bit sources.
      callback_single_cycles: the same on 32-bit sources.
      dot_cycles, fold_cycles: per element of multiply-and-reduce, and of reduce, to a scalar.
      loop_cycles: a software loop's back-edge.
      branch_cycles: a taken branch.
      scalar_cycles: a dependent scalar add, multiply or compare.
      divide_cycles, sqrt_cycles, exp_cycles: scalar float code.
      task_start_cycles: from the wavelet that activates a task to its first instruction.
      io_bytes_per_s: the whole wafer's Ethernet.
    """

    core: str = "PE"
    home: str = "sram"
    tick_hz: int | None = None
    engines: Mapping[str, str | None] = dataclasses.field(default_factory=_engines)
    capacity: Mapping[str, str | None] = dataclasses.field(default_factory=_capacity)

    clock_hz: Quantity
    grid_width: Quantity
    grid_height: Quantity
    hop_cycles: Quantity
    queue_words: Quantity
    descriptor_load_cycles: Quantity
    half_per_cycle: Quantity
    single_cycles: Quantity
    move_bytes_per_cycle: Quantity
    callback_cycles: Quantity
    callback_single_cycles: Quantity
    vector_setup_cycles: Quantity = Quantity(
        6, "derived", "FABRICA simulator traces: issue 6 + 2*ceil(n/8); WSE-2 float32 6 + n"
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
    task_start_cycles: Quantity = Quantity(
        3, "measured", "FABRICA: task starts 3 after the last wavelet; others say 10-30", 3, 30
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
    queue_words=Quantity(12, "derived", "SDK tables: output queue 8 + input queue 4"),
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
    queue_words=Quantity(4, "derived", "SDK tables: output queue 2 + input queue 2"),
    descriptor_load_cycles=Quantity(
        9, "derived", "MIMD_dataflow: 34 + n with three loads, 6 + n without", 4, 10
    ),
    half_per_cycle=Quantity(4, "published", "two 64-bit reads and one write a cycle, 4 lanes"),
    single_cycles=Quantity(
        1, "measured", "MIMD_dataflow: 6 + n; 6 + 2n with a bank conflict", 1, 2
    ),
    move_bytes_per_cycle=Quantity(8, "assumed", "one 64-bit write a cycle", 16, 8),
    callback_cycles=Quantity(6, "derived", "WaferLLM's MeshGEMM sweeps: 6 + 2*ceil(n/8)"),
    callback_single_cycles=Quantity(
        1, "fitted", "wse-0045, wse-0047: rows + 1.15 a callback and 35 of set-up", 1, 2
    ),
)  # fmt: skip

__all__ = ["ENGINE", "WSE2", "WSE3", "WaferSheet"]
