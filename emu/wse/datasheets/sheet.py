"""What a wafer's datasheet says: one PE, its fabric, clock and memory, the clock a switch."""

import dataclasses
from collections.abc import Mapping

from emu import given
from emu.datasheet import Quantity, Sheet
from emu.wse.datasheets.instead import INSTEAD

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
      code_bytes: what a kernel of unknown length takes of it, for kernels of the timeline.
      runtime_bytes: what every program takes of it, for the host's copies and the runtime.
      operation_bytes: what each operation of a fabric program takes besides.
      grid_width, grid_height: largest rectangle of PEs that a program may use.
      hop_cycles: a wavelet's time from router to router.
      ramp_cycles: between a PE and its router, each way.
      router_queue_words: wavelets of one colour that a router holds.
      input_queue_words, output_queue_words: the same of a PE's queues, by queue id.
      reassigns_queues: whether a queue that has run empty may be given to another colour.
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
      dependent_cycles: how much longer one waits that needs a vector operation's result.
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
      branch_cycles, untaken_branch_cycles: a branch that is taken, and one that is not.
      scalar_cycles: a dependent scalar add, multiply or compare.
      divide_cycles, sqrt_cycles, exp_cycles: scalar float code.
      function_cycles: scalar float code of a logarithm, a sine, a cosine or an error function.
      io_bytes_per_s: the whole wafer's Ethernet.
      io_links: links that it is made of.
      link_rows: rows of routers on which one link's wavelets enter the fabric.
      edge_cycles: distance of two wavelets that enter on one row.
      edge_latency_s: of a message of no bytes from the edge of one wafer to that of the next.
      host_latency_s: from a token's choice on the wafer until it is back there by way of the host.
      constants: what the numbers were measured on, where simulator and silicon differ.
    """

    reassigns_queues: bool = False
    core: str = "PE"
    home: str = "sram"
    tick_hz: int | None = None
    engines: Mapping[str, str | None] = dataclasses.field(default_factory=_engines)
    capacity: Mapping[str, str | None] = dataclasses.field(default_factory=_capacity)
    instead: Mapping[str, str] = dataclasses.field(default_factory=lambda: INSTEAD)
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
    role_cycles: Quantity
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
        4,
        "derived",
        "FABRICA simulator traces: issue 6 + 2*ceil(n/8); WSE-2 float32 6 + n",
    )
    stream_cycles: Quantity = Quantity(
        1, "measured", "FABRICA: 1.0 cycle a wavelet in the simulator, 1.125 in silicon"
    )
    wide_cycles: Quantity = Quantity(
        4,
        "fitted",
        "wse-0091 wse-0112 wse-0136 wse-0139 wse-0160 wse-0184: MeshGEMM without compute, two "
        "wavelets in four cycles",
        3,
        5,
    )
    dependent_cycles: Quantity = Quantity(
        10,
        "derived",
        "FABRICA: 16 + n/4 to a dependent instruction, 6 + n/4 to another",
        9,
        11,
    )
    instruction_cycles: Quantity = Quantity(
        1, "measured", "FABRICA: issue 1, dependent 2"
    )
    router_queue_words: Quantity = Quantity(
        2,
        "assumed",
        "one wavelet going, one coming; not published",
        4,
        1,
    )
    colors: Quantity = Quantity(24, "published", "csl-examples: routable colours 0-23")
    async_cycles: Quantity = Quantity(
        2,
        "assumed",
        "as the set-up of a synchronous operation; not published",
        1,
        6,
    )
    task_switch_cycles: Quantity = Quantity(
        0,
        "derived",
        "FABRICA: a send of 8 words over 1 hop starts its task after 19 cycles, "
        "which leaves nothing for the switch",
        0,
        10,
    )
    mixed_cycles: Quantity = Quantity(
        0.5,
        "derived",
        "the 64-bit write port takes two float32 a cycle; high: as float32",
        0.5,
        1,
    )
    ramp_cycles: Quantity = Quantity(2, "published", "HPDC'24: T_R = 2 (WSE-2)")
    sram_bytes: Quantity = Quantity(49_152, "published", "48 KiB a PE, Hot Chips 34")
    code_bytes: Quantity = Quantity(
        4_176,
        "measured",
        "smallest memcpy program in the vendor simulator",
        4_176,
        10_240,
    )
    runtime_bytes: Quantity = Quantity(
        4_176, "measured", "smallest memcpy program in the vendor simulator"
    )
    operation_bytes: Quantity = Quantity(
        40,
        "assumed",
        "three descriptors of 12 bytes and the instruction; not published",
        16,
        80,
    )
    dot_cycles: Quantity = Quantity(
        2.25, "measured", "FABRICA: multiply and reduce, simulator"
    )
    fold_cycles: Quantity = Quantity(
        2, "measured", "FABRICA: reduce to a scalar, simulator"
    )
    loop_cycles: Quantity = Quantity(
        10,
        "measured",
        "FABRICA: loop back-edge 9-10",
        9,
        10,
    )
    branch_cycles: Quantity = Quantity(
        6, "measured", "FABRICA: taken branch 6, no predictor"
    )
    untaken_branch_cycles: Quantity = Quantity(
        3, "measured", "FABRICA: branch not taken 3"
    )
    scalar_cycles: Quantity = Quantity(
        2, "measured", "FABRICA: dependent floating-point 2"
    )
    divide_cycles: Quantity = Quantity(
        50, "published", "csl-examples: scalar f32 divide about 50"
    )
    sqrt_cycles: Quantity = Quantity(
        50,
        "assumed",
        "as a divide; the vendor's library is not published",
        25,
        100,
    )
    exp_cycles: Quantity = Quantity(
        60,
        "assumed",
        "a divide (50), three dependent operations (2 each) and a call; low: a short polynomial",
        15,
        100,
    )
    function_cycles: Quantity = Quantity(
        60,
        "assumed",
        "as an exponential; the vendor's library is not published",
        15,
        100,
    )
    io_bytes_per_s: Quantity = Quantity(150e9, "published", "12 x 100 GbE")
    io_links: Quantity = Quantity(12, "published", "12 x 100 GbE")
    link_rows: Quantity = Quantity(
        4,
        "assumed",
        "as many as carry 100 Gb/s at a wavelet of 32 bits a cycle; not published; high: SDK "
        "memcpy has at most 16 channels and saturates near 8",
        4,
        1,
    )
    edge_cycles: Quantity = Quantity(
        1,
        "assumed",
        "a wavelet a cycle; not published; high: SDK memcpy's 0.868 words a cycle to the wafer, "
        "one channel in the vendor simulator",
        1,
        1 / 0.868,
    )
    edge_latency_s: Quantity = Quantity(
        2e-6,
        "assumed",
        "two network ports of about 0.5 us and a switch of 0.5 to 1 us; none is published between "
        "wafers. high: slower ports, and rows gathered along 1,170 PEs of an edge, 2 us",
        1e-6,
        5e-6,
    )
    host_latency_s: Quantity = Quantity(
        10e-6,
        "assumed",
        "2 us to the host, 2 us back, and a host's thread that polls, takes the token and sends it "
        "on; not published. high: a thread that is woken, and both ways through its kernel",
        4e-6,
        50e-6,
    )


def at_clock(sheet: WaferSheet, hz: int) -> WaferSheet:
    """The sheet at one clock, which is a setting of a run and then has no band."""
    given.whole(f"{sheet.name}: clock in Hz", hz, 1)
    return dataclasses.replace(
        sheet, clock_hz=Quantity(hz, "published", "set by the user")
    )


__all__ = ["ENGINE", "SILICON", "SIMULATOR", "WaferSheet", "at_clock"]
