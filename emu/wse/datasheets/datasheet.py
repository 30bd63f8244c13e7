"""The wafers' numbers: one PE of a WSE-2 and a WSE-3, its fabric, clock and memory.

Sources, by the short names used below: *HPDC'24* arXiv 2404.15888; *WaferLLM* arXiv 2502.04563
(OSDI'25); *FABRICA* arXiv 2608.25124 and github luozoupi/FABRICA-CUDA2CSL (vendor simulator and
third-party silicon runs); *csl-examples* github Cerebras/csl-examples; *MIMD_dataflow* github
lingzhi227/MIMD_dataflow (vendor simulator); *Hot Chips 34* the vendor's 2022 talk.
"""

import dataclasses

from emu import given
from emu.datasheet import Quantity, declare_machine
from emu.wse.datasheets.sheet import ENGINE, SILICON, SIMULATOR, WaferSheet, at_clock

WSE3 = WaferSheet(
    name="WSE-3",
    reassigns_queues=True,
    clock_hz=Quantity(
        1_100_000_000,
        "derived",
        "64-CS-3 stencil peak (arXiv 2511.11542) implies 1.105 GHz; SDK runs 875 MHz; inference "
        "power profiles of cerebras-appliance 2.10.0 reach 1.2 GHz",
        1_200_000_000,
        875_000_000,
    ),
    grid_width=Quantity(
        755, "derived", "csl-examples: fabric 762 wide, 7 columns of plumbing"
    ),
    grid_height=Quantity(
        1_170, "derived", "csl-examples: fabric 1172 high, 2 rows reserved"
    ),
    hop_cycles=Quantity(2, "measured", "FABRICA: 2.000 cycles a hop over 1-128 hops"),
    input_queue_words=Quantity((8, 8, 4, 4, 4, 4, 4, 4), "published", "SDK tables"),
    output_queue_words=Quantity((8,) * 8, "published", "SDK tables"),
    send_words=Quantity(
        2, "derived", "MeshGEMM's 64-bit moves: 4 fp16 a datapath cycle"
    ),
    fabric_setup_cycles=Quantity(
        4,
        "derived",
        "FABRICA: 7 from a send's dispatch to the link, less the push and a ramp",
    ),
    role_cycles=Quantity(
        20,
        "derived",
        "an address (2) and three taken branches (6 each); high: as on WSE-2",
        8,
        110,
    ),
    timestamp_cycles=Quantity(
        17,
        "assumed",
        "as on WSE-2, whose reduces show it; not published",
        3,
        30,
    ),
    descriptor_load_cycles=Quantity(
        4,
        "measured",
        "FABRICA: descriptor register load to use 4",
        1,
        10,
    ),
    half_per_cycle=Quantity(
        4,
        "measured",
        "FABRICA: simulator 4, silicon 2.92",
        4,
        2.92,
    ),
    single_cycles=Quantity(
        1,
        "derived",
        "one float32 FMAC a cycle; simulator 2 with a bank conflict",
        1,
        2,
    ),
    move_bytes_per_cycle=Quantity(
        16,
        "measured",
        "FABRICA: move N/8 fp16, N/4 fp32; silicon N/4.82",
        16,
        9.64,
    ),
    bank_conflict_factor=Quantity(
        1, "measured", "FABRICA: the simulator has no bank conflicts"
    ),
    async_cycles=Quantity(
        3,
        "fitted",
        "wse-0092 wse-0140 wse-0236: what communication adds to MeshGEMM's steps",
        1,
        6,
    ),
    callback_cycles=Quantity(
        6, "measured", "FABRICA and MeshGEMM sweeps: 6 + 2*ceil(n/8) a callback"
    ),
    callback_single_cycles=Quantity(
        6,
        "assumed",
        "as 16-bit; WSE-2 shows about 1",
        1,
        6,
    ),
)

WSE2 = WaferSheet(
    name="WSE-2",
    clock_hz=Quantity(
        850_000_000,
        "published",
        "HPDC'24; csl-examples. 1.1 GHz at most (Hot Chips 34)",
        1_100_000_000,
        850_000_000,
    ),
    grid_width=Quantity(
        750, "derived", "csl-examples: fabric 757 wide, 7 columns of plumbing"
    ),
    grid_height=Quantity(
        994, "derived", "csl-examples: fabric 996 high, 2 rows reserved"
    ),
    hop_cycles=Quantity(1, "published", "HPDC'24"),
    input_queue_words=Quantity((6, 6, 4, 4, 2, 2, 2, 2), "published", "SDK tables"),
    output_queue_words=Quantity((2, 2, 6, 6, 2, 2), "published", "SDK tables"),
    send_words=Quantity(1, "assumed", "one 32-bit wavelet an issue", 2, 1),
    fabric_setup_cycles=Quantity(
        17,
        "fitted",
        "wse-0001 wse-0003 wse-0005 wse-0007 wse-0011 wse-0013 wse-0015 wse-0017: "
        "21 from an operation's last element to the next one's first, less the drain",
        13,
        21,
    ),
    role_cycles=Quantity(
        40,
        "fitted",
        "wse-0417 wse-0419 wse-0421: what thirteen all-reduces a layer take beside their "
        "stages; each picks a role in three phases",
        20,
        110,
    ),
    exp_cycles=Quantity(
        20,
        "derived",
        "WaferLLM's kernel: 1 + x/256, squared twice, is four dependent operations (2 each), the "
        "division by a power of two being a product, in a call (two taken branches, 6 each)",
        15,
        60,
    ),
    timestamp_cycles=Quantity(
        17,
        "fitted",
        "wse-0009: 52 before the first element of a reduce, less two descriptor "
        "loads and the set-up",
        10,
        24,
    ),
    descriptor_load_cycles=Quantity(
        9,
        "derived",
        "MIMD_dataflow: 34 + n with three loads, 6 + n without",
        4,
        10,
    ),
    half_per_cycle=Quantity(
        4, "published", "two 64-bit reads and one write a cycle, 4 lanes"
    ),
    dependent_cycles=Quantity(
        0, "measured", "wse-0058: 6 + n to the timestamp after it"
    ),
    single_cycles=Quantity(
        1,
        "measured",
        "MIMD_dataflow: 6 + n; 6 + 2n with a bank conflict",
        1,
        2,
    ),
    move_bytes_per_cycle=Quantity(8, "assumed", "one 64-bit write a cycle", 16, 8),
    bank_conflict_factor=Quantity(
        2, "measured", "wse-0057, wse-0058: 6 + 2n against 6 + n"
    ),
    callback_cycles=Quantity(
        1,
        "derived",
        "as float32, which is measured on this wafer; WSE-3 has 6",
        1,
        6,
    ),
    callback_single_cycles=Quantity(
        1,
        "fitted",
        "wse-0045, wse-0047: rows + 1.15 a callback and 35 of set-up",
        1,
        2,
    ),
)

_SILICON = {
    "WSE-3": {
        "half_per_cycle": Quantity(
            2.92, "measured", "FABRICA: fmach N/2.92 in silicon"
        ),
        "move_bytes_per_cycle": Quantity(
            9.64, "measured", "FABRICA: move N/4.82 fp16 in silicon"
        ),
        "bank_conflict_factor": Quantity(
            1.94,
            "measured",
            "FABRICA: 1.94 times as long in silicon, 2.86 at worst",
            1.94,
            2.86,
        ),
        "stream_cycles": Quantity(
            1.125,
            "measured",
            "FABRICA: one way 33 + 2.0 a hop + 1.125 a wavelet in silicon",
        ),
    }
}


def on_silicon(sheet: WaferSheet) -> WaferSheet:
    """The sheet with what was measured in silicon in place of the vendor simulator's constants.

    Raises:
      LimitExceeded: a wafer for which no such measurement has been published.
    """
    if sheet.name not in _SILICON:
        given.refuse(
            f"{sheet.name} has no published constants of its silicon, must be one of "
            f"{', '.join(_SILICON)}; read it with the vendor simulator's"
        )
    return dataclasses.replace(sheet, constants=SILICON, **_SILICON[sheet.name])


WSE3_SILICON = on_silicon(WSE3)

declare_machine("wse", (WSE3, WSE2))

__all__ = [
    "ENGINE",
    "SILICON",
    "SIMULATOR",
    "WSE2",
    "WSE3",
    "WSE3_SILICON",
    "WaferSheet",
    "at_clock",
    "on_silicon",
]
