"""Trainium2's numbers: NeuronCore-v3."""

from emu.datasheet import Quantity
from emu.trainium.datasheets.sheet import (
    ARCH,
    DMA,
    DMA_OVERVIEW,
    HARDWARE,
    ISA,
    NeuronCoreSheet,
)
from emu.trainium.datasheets.topology import System, each_direction

_ARCH = f"{ARCH}/trainium2_arch.rst"
_CHIP = f"{HARDWARE}/trainium2.rst"
_SYSTEM = f"{HARDWARE}/trn2-arch.rst"

TRN2 = NeuronCoreSheet(
    name="Trainium2",
    generation=3,
    tensor_hz=Quantity(2_400_000_000, "published", _ARCH),
    vector_hz=Quantity(960_000_000, "published", _ARCH),
    scalar_hz=Quantity(1_200_000_000, "published", _ARCH),
    gpsimd_hz=Quantity(1_200_000_000, "published", _ARCH),
    sbuf_bytes=Quantity(28 * 2**20, "published", _ARCH),
    extra_instructions=Quantity(
        frozenset(
            {
                "trn.dma_transpose",
                "trn.nc_matmul_double_row",
                "trn.nonzero_with_count",
                "trn.range_select",
            }
        ),
        "published",
        ISA,
    ),
    fast_bytes=Quantity((2,), "published", f"{_ARCH}: 16-bit floats"),
    vector_pair_elements=Quantity(
        (1, 2),
        "derived",
        f"{_ARCH}: 256 elements a cycle, 512 of 16-bit floats; high: {ISA}, of NeuronCore-v2",
        (1, 2),
        (0.5, 1),
    ),
    bf16_flops_per_s=Quantity(
        78.6432e12,
        "derived",
        f"2 x 128 x 128 x 2.4 GHz, 78.6 in AWS's profiler; {_ARCH}: 79",
    ),
    fp8_flops_per_s=Quantity(
        157.2864e12, "derived", f"2 x bf16, double rows; {_ARCH}: 158"
    ),
    fp32_flops_per_s=Quantity(19.6608e12, "derived", f"bf16 / 4; {_ARCH}: 20"),
    cores_per_chip=Quantity(8, "published", _CHIP),
    hbm_bytes=Quantity(96 * 2**30, "published", _CHIP),
    hbm_stacks=Quantity(4, "published", _ARCH),
    hbm_bytes_per_s=Quantity(
        2.9e12, "published", f"{_CHIP}: 2.9; {_ARCH}: 3", 3e12, 2.9e12
    ),
    cc_cores=Quantity(
        20, "published", f"{_CHIP}: 20; compute-comm-overlap.rst: 2 a core, 16", 20, 16
    ),
    chip_bf16_flops_per_s=Quantity(
        667e12,
        "published",
        f"{_CHIP}: 667; eight cores make 629",
        667e12,
        8 * 78.6432e12,
    ),
    chip_fp8_flops_per_s=Quantity(
        1299e12,
        "published",
        f"{_CHIP}: 1299; eight cores make 1258",
        1299e12,
        8 * 157.2864e12,
    ),
    chip_fp32_flops_per_s=Quantity(
        181e12,
        "published",
        f"{_CHIP}: 181; eight cores make 157",
        181e12,
        8 * 19.6608e12,
    ),
    weight_load_exposed_cycles=Quantity(8, "fitted", "T2-TE-1", 0, 32),
    vector_access_cycles=Quantity(108, "assumed", "as on Trainium1", 60, 160),
    scalar_access_cycles=Quantity(
        60,
        "published",
        f"{ARCH}/trainium_inferentia2_arch.rst: about 60 cycles",
        0,
        108,
    ),
    tensor_latency_cycles=Quantity(389, "assumed", "as on Trainium1", 128, 389),
    vector_latency_cycles=Quantity(
        160, "fitted", "T2-I-4, from PSUM; SDK: about 60", 60, 380
    ),
    scalar_latency_cycles=Quantity(353, "fitted", "T2-ACT-2; SDK: about 60", 60, 353),
    dma_engine_bytes_per_s=Quantity(
        23e9, "published", f"{DMA}: 23 in practice of a peak of 27.2", 27.2e9, 23e9
    ),
    dma_engine_peak_bytes_per_s=Quantity(27.2e9, "published", DMA),
    dma_descriptor_s=Quantity(
        1e-9,
        "derived",
        f"{DMA_OVERVIEW}: 8 descriptors of 256 B took 97 ns at 23 B/ns",
        0,
        3e-9,
    ),
    dma_copy_s=Quantity(0.14e-6, "fitted", "T2-F32MM-2a T2-DMA-1", 0, 0.25e-6),
    dma_interval_s=Quantity(
        0.85e-6,
        "derived",
        f"{DMA}: copies of 128 descriptors reach 0.42 of the full rate at 1 KiB, 0.81 at 2 KiB",
        0.25e-6,
        0.85e-6,
    ),
    link_bytes_per_s=Quantity(
        128e9,
        "derived",
        f"{_SYSTEM}: 1024 GB/s a chip to 4 neighbours of its instance, both directions or each",
        256e9,
        128e9,
    ),
)

_TORUS = each_direction(
    256e9, f"{_SYSTEM}: 1024 GB/s a chip to 4 neighbours of its instance"
)

TRN2_48XLARGE = System(
    name="trn2.48xlarge",
    generation=TRN2.generation,
    dims=(4, 4),
    switched=False,
    source=_SYSTEM,
    link_bytes_per_s=(_TORUS,) * 2,
    efa_bytes_per_s=Quantity(400e9, "published", f"{_SYSTEM}: EFAv3, 3.2 Tbps"),
)

TRN2_ULTRASERVER = System(
    name="Trn2 UltraServer",
    generation=TRN2.generation,
    dims=(4, 4, 4),
    switched=False,
    source=f"{_SYSTEM}: 4 instances; chips at the same place of each form a ring",
    link_bytes_per_s=(
        each_direction(
            128e9, f"{_SYSTEM}: 256 GB/s a chip to 2 neighbours of other instances"
        ),
        _TORUS,
        _TORUS,
    ),
    efa_bytes_per_s=Quantity(1.6e12, "derived", f"{_SYSTEM}: 4 instances of 3.2 Tbps"),
)
