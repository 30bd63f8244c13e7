"""Trainium1's numbers: NeuronCore-v2, as later releases drive it and as SDK 2.21 did.

AWS's tutorial matmuls (T1-MM-1L, T1-MM-2L) moved 103 to 105 GB/s under SDK 2.21, whatever they
loaded. Kernels timed under later releases move more with the same copies: T1-AC-MM-1, of 32 and 128
KiB as T1-MM-1L, at least 193, T1-NKIB-bmm-base 250. No time of a descriptor or of a copy makes
both, so there are two datasheets that differ in what the DMA engines reach, and a measurement
belongs to one of them.
"""

import dataclasses

from emu.datasheet import Quantity
from emu.trainium.datasheets.sheet import ARCH, DMA, HARDWARE, ISA, NeuronCoreSheet
from emu.trainium.datasheets.topology import System, each_direction

_ARCH = f"{ARCH}/trainium_inferentia2_arch.rst"
_CHIP = f"{HARDWARE}/trainium.rst"
_SYSTEM = f"{HARDWARE}/trn1-arch.rst"

TRN1 = NeuronCoreSheet(
    name="Trainium1",
    generation=2,
    tick_hz=5_600_000_000,  # the least multiple of every engine's clock
    tensor_hz=Quantity(2_800_000_000, "published", _ARCH),
    vector_hz=Quantity(1_120_000_000, "published", _ARCH),
    scalar_hz=Quantity(1_400_000_000, "published", _ARCH),
    gpsimd_hz=Quantity(1_400_000_000, "published", _ARCH),
    sbuf_bytes=Quantity(24 * 2**20, "published", _ARCH),
    extra_instructions=Quantity(frozenset(), "published", ISA),
    scalar_elementwise=Quantity(False, "published", ISA),
    reciprocal_takes_bias=Quantity(False, "published", ISA),
    shared_ports=Quantity(
        (("vector", "scalar", "psum"), ("vector", "gpsimd", "sbuf")),
        "published",
        _ARCH,
    ),
    fast_bytes=Quantity((), "published", f"{_ARCH}: no fast modes"),
    vector_pair_elements=Quantity((0.5, 0.5), "published", f"{ISA}: 2N; T1-I-3"),
    transposes_in_input_dtype=Quantity(
        False, "published", f"{_ARCH}: a product with the identity"
    ),
    fp32_transpose_passes=Quantity(4, "published", f"{ISA}: as every float32 product"),
    bf16_flops_per_s=Quantity(
        91.7504e12, "derived", f"2 x 128 x 128 x 2.8 GHz; {_ARCH}: 92"
    ),
    fp8_flops_per_s=Quantity(91.7504e12, "derived", f"as bf16, cFP8; {_ARCH}: 92"),
    fp32_flops_per_s=Quantity(22.9376e12, "derived", f"bf16 / 4; {_ARCH}: 23"),
    cores_per_chip=Quantity(2, "published", _CHIP),
    hbm_bytes=Quantity(32 * 2**30, "published", _CHIP),
    hbm_stacks=Quantity(2, "published", _ARCH),
    hbm_bytes_per_s=Quantity(820e9, "published", _CHIP),
    cc_cores=Quantity(6, "published", _CHIP),
    chip_bf16_flops_per_s=Quantity(
        190e12,
        "published",
        f"{_CHIP}: 190; two cores make 183.5",
        191e12,
        2 * 91.7504e12,
    ),
    chip_fp8_flops_per_s=Quantity(190e12, "published", _CHIP),
    chip_fp32_flops_per_s=Quantity(
        47.5e12,
        "published",
        f"{_CHIP}: 47.5; two cores make 45.9",
        48e12,
        2 * 22.9376e12,
    ),
    weight_load_exposed_cycles=Quantity(
        40,
        "fitted",
        "T1-MM-4L T1-AC-MM-4 T1-NKIB-swiglu-base; 83 if nothing else limited T1-MM-4L",
        8,
        83,
    ),
    vector_access_cycles=Quantity(
        108,
        "fitted",
        f"T1-NKIB-rope_single_freq_apply-base T1-AC-ATT-3 T1-AC-ATT-4; {_ARCH}: about 60",
        60,
        220,
    ),
    scalar_access_cycles=Quantity(60, "published", f"{_ARCH}: about 60 cycles", 0, 108),
    tensor_latency_cycles=Quantity(389, "fitted", "T1-I-5", 128, 389),
    vector_latency_cycles=Quantity(380, "fitted", "T1-I-3; SDK: about 60", 60, 380),
    scalar_latency_cycles=Quantity(
        158,
        "fitted",
        "T1-I-1, an interval of 264 less 64 busy and the hand-over",
        60,
        200,
    ),
    handover_cycles=Quantity(
        42, "fitted", "T1-I-1; SDK: dependent instructions add about 100", 0, 100
    ),
    act_table_load_s=Quantity(
        0.37e-6,
        "measured",
        "aws-neuron-sdk nki/img: Trainium1 profile; 1.29 us on Trainium2",
        0.37e-6,
        1.29e-6,
    ),
    tensor_throttle_slowdown=Quantity(
        1, "assumed", "no throttling published before Trn2", 1, 1
    ),
    dma_engine_bytes_per_s=Quantity(
        17e9,
        "published",
        f"{DMA}: 17 in practice of a peak of 27.2, 18.1 shown by a saturated engine",
        18.1e9,
        15e9,
    ),
    dma_engine_peak_bytes_per_s=Quantity(27.2e9, "published", DMA),
    dma_descriptor_s=Quantity(0, "assumed", "at most Trainium2's", 0, 1e-9),
    dma_copy_s=Quantity(
        0.18e-6,
        "fitted",
        "T1-AC-MM-1 T1-NKIB-bmm-base T1-AC-ATT-0; Trainium2's is 0.14 us",
        0.06e-6,
        0.25e-6,
    ),
    dma_interval_s=Quantity(
        0,
        "assumed",
        "not published; a kernel's copies are spread over 16 queues",
        0,
        0.25e-6,
    ),
    link_bytes_per_s=Quantity(
        48e9,
        "derived",
        f"{_CHIP}: 384 GB/s a chip to 4 neighbours, both directions or each",
        96e9,
        48e9,
    ),
)

TRN1_SDK_2_21 = dataclasses.replace(
    TRN1,
    name="Trainium1 under SDK 2.21",
    dma_engine_bytes_per_s=Quantity(
        6.6e9,
        "fitted",
        f"T1-MM-1L; {DMA}: 17 in practice of a peak of 27.2",
        17e9,
        6.6e9,
    ),
    dma_descriptor_s=Quantity(
        0, "fitted", "T1-MM-1L: its rate is the same at 256 B and at 1 KiB", 0, 11e-9
    ),
    dma_copy_s=Quantity(
        0, "fitted", "T1-MM-1L: its rate is the same for all copies", 0, 0.15e-6
    ),
    dma_interval_s=Quantity(
        0,
        "assumed",
        "T1-MM-1L leaves no room for one; Trainium2's is 0.85 us",
        0,
        0.85e-6,
    ),
)

TRN1_32XLARGE = System(
    name="trn1.32xlarge",
    generation=TRN1.generation,
    dims=(4, 4),
    switched=False,
    source=_SYSTEM,
    link_bytes_per_s=(
        each_direction(96e9, f"{HARDWARE}/trainium.rst: 384 GB/s a chip to 4"),
    )
    * 2,
    efa_bytes_per_s=Quantity(100e9, "published", f"{_SYSTEM}: 800 Gbps"),
)

TRN1N_32XLARGE = dataclasses.replace(
    TRN1_32XLARGE,
    name="trn1n.32xlarge",
    link_bytes_per_s=(
        each_direction(192e9, f"{HARDWARE}/trainium.rst: 768 GB/s a chip to 4"),
    )
    * 2,
    efa_bytes_per_s=Quantity(200e9, "published", f"{_SYSTEM}: 1600 Gbps"),
)
