"""Trainium3's numbers: NeuronCore-v4. No kernel timing has been published for it."""

from emu.datasheet import Quantity
from emu.trainium.datasheets.sheet import ARCH, DMA, HARDWARE, ISA, NeuronCoreSheet
from emu.trainium.datasheets.topology import System, each_direction
from emu.trainium.datasheets.trn2 import TRN2

_ARCH = f"{ARCH}/trainium3_arch.rst"
_CHIP = f"{HARDWARE}/trainium3.rst"
_SYSTEM = f"{HARDWARE}/trn3-arch.rst"

TRN3 = NeuronCoreSheet(
    name="Trainium3",
    generation=4,
    tensor_hz=Quantity(2_400_000_000, "published", _ARCH),
    vector_hz=Quantity(1_200_000_000, "published", _ARCH),
    scalar_hz=Quantity(1_200_000_000, "published", _ARCH),
    gpsimd_hz=Quantity(1_200_000_000, "published", _ARCH),
    sbuf_bytes=Quantity(32 * 2**20, "published", _ARCH),
    extra_instructions=Quantity(
        TRN2.extra_instructions.value
        | {
            "trn.activate2",
            "trn.exponential",
            "trn.nc_matmul_mx",
            "trn.quantize_mx",
            "trn.rand2",
        },
        "published",
        f"{_ARCH}; {ISA}",
    ),
    fast_bytes=Quantity((1, 2), "published", f"{_ARCH}: 8-bit floats too"),
    scalar_copy_elements=Quantity(2, "published", _ARCH),
    vector_pair_elements=Quantity(
        (1, 2),
        "derived",
        f"{_ARCH}: 256 elements a cycle, 512 of short floats; high: {ISA}, of NeuronCore-v2",
        (1, 2),
        (0.5, 1),
    ),
    matmul_result_dtypes=Quantity(("float32", "bfloat16"), "published", _ARCH),
    bf16_flops_per_s=Quantity(
        78.6432e12, "derived", f"2 x 128 x 128 x 2.4 GHz; {_ARCH}: 79"
    ),
    fp8_flops_per_s=Quantity(
        314.5728e12, "derived", f"4 x bf16, MXFP8 and MXFP4; {_ARCH}: 315"
    ),
    fp32_flops_per_s=Quantity(19.6608e12, "derived", f"bf16 / 4; {_ARCH}: 20"),
    cores_per_chip=Quantity(8, "published", _CHIP),
    hbm_bytes=Quantity(144 * 2**30, "published", _CHIP),
    hbm_stacks=Quantity(4, "published", _ARCH),
    hbm_bytes_per_s=Quantity(
        4.9e12, "published", f"{_CHIP}: 4.9; {_ARCH}: 4.7", 4.9e12, 4.7e12
    ),
    cc_cores=Quantity(16, "published", f"{_CHIP}: 16; {_ARCH}: 20", 20, 16),
    chip_bf16_flops_per_s=Quantity(
        671e12,
        "published",
        f"{_CHIP}: 671; eight cores make 629",
        671e12,
        8 * 78.6432e12,
    ),
    chip_fp8_flops_per_s=Quantity(2517e12, "published", _CHIP),
    chip_fp32_flops_per_s=Quantity(
        183e12,
        "published",
        f"{_CHIP}: 183; eight cores make 157",
        183e12,
        8 * 19.6608e12,
    ),
    moving_free_limit=Quantity(4096, "published", f"{_ARCH}: all of PSUM"),
    weight_load_exposed_cycles=Quantity(8, "assumed", "as on Trainium2", 0, 32),
    transposes_at_once=Quantity(
        1,
        "published",
        f"{_ARCH}: background transposes, close to 2 on long chains",
        2,
        1,
    ),
    vector_access_cycles=Quantity(108, "assumed", "as on Trainium1", 60, 160),
    scalar_access_cycles=Quantity(
        60,
        "published",
        f"{ARCH}/trainium_inferentia2_arch.rst: about 60 cycles",
        0,
        108,
    ),
    tensor_latency_cycles=Quantity(389, "assumed", "as on Trainium1", 128, 389),
    vector_latency_cycles=Quantity(160, "assumed", "as on Trainium2", 60, 380),
    scalar_latency_cycles=Quantity(353, "assumed", "as on Trainium2", 60, 353),
    dma_engine_bytes_per_s=Quantity(
        33e9,
        "published",
        f"{DMA}: 33 in practice of a peak of 38.4; low to Trainium2's share",
        38.4e9,
        24.75e9,
    ),
    dma_engine_peak_bytes_per_s=Quantity(38.4e9, "published", DMA),
    dma_descriptor_s=Quantity(1e-9, "assumed", "as on Trainium2", 0, 3e-9),
    dma_copy_s=Quantity(0.14e-6, "assumed", "as on Trainium2", 0, 0.25e-6),
    dma_interval_s=Quantity(0.85e-6, "assumed", "as on Trainium2", 0.25e-6, 0.85e-6),
    dma_accumulate_share=Quantity(
        1, "published", f"{_ARCH}: SBUF read-add-write at a copy's rate"
    ),
    link_bytes_per_s=Quantity(
        1.28e12,
        "derived",
        f"{_CHIP}: 2.56 TB/s a chip, both directions; {_SYSTEM} lists links of 704 GB/s in sum",
        2.56e12,
        0.352e12,
    ),
)

_SERVER = (
    each_direction(
        320e9, f"{_SYSTEM}: 5 PCIe Gen6 x8 links a chip to other servers of the rack"
    ),
    each_direction(256e9, f"{_SYSTEM}: 4 PCIe Gen6 x8 links a chip within its server"),
)

TRN3_GEN1 = System(
    name="Trn3 Gen1 UltraServer",
    generation=TRN3.generation,
    dims=(16, 4),
    switched=True,
    link_bytes_per_s=_SERVER,
    efa_bytes_per_s=Quantity(1.6e12, "published", f"{_SYSTEM}: 12.8 Tbps"),
    source=f"{_SYSTEM}: 64 chips, 4 a sled by its connectivity, 16 a server by its text",
)

TRN3_GEN2 = System(
    name="Trn3 Gen2 UltraServer",
    generation=TRN3.generation,
    dims=(36, 4),
    switched=True,
    link_bytes_per_s=_SERVER,
    efa_bytes_per_s=Quantity(3.6e12, "published", f"{_SYSTEM}: 28.8 Tbps"),
    source=f"{_SYSTEM}: 36 servers of 4; racks are joined by 2 more links a chip, 128 GB/s",
)
