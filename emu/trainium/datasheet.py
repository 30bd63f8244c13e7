"""Trainium3, per NeuronCore: every number with its kind, its source and its band."""

import dataclasses
from collections.abc import Mapping

from emu.datasheet import Quantity, Sheet

_ARCH = "aws-neuron-sdk 2.32 nki/guides/architecture/trainium3_arch.rst"
_CHIP = "aws-neuron-sdk 2.32 about-neuron/arch/neuron-hardware/trainium3.rst"
_SYSTEM = "aws-neuron-sdk 2.32 about-neuron/arch/neuron-hardware/trn3-arch.rst"
_ISA = "aws-neuron-sdk 2.26.1 nki/api/nki/isa/__init__.py"
_DMA = "aws-neuron-sdk 2.32 nki/deep-dives/nki-dma-bandwidth-guide.rst"
_COLLECTIVES = "aws-neuron-sdk 2.32 neuron-runtime/explore/intranode-collective-comm.rst"

_ENGINES = {
    "tensor": "tensor_hz",
    "vector": "vector_hz",
    "scalar": "scalar_hz",
    "gpsimd": "gpsimd_hz",
    "load_queue": None,
    "store_queue": None,
    "neuronlink": None,
}
_CAPACITY = {"hbm": "hbm_bytes", "sbuf": "sbuf_bytes", "psum": "psum_bytes"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeuronCoreSheet(Sheet):
    """One NeuronCore and its share of the chip.

    The DMA engines are divided into a queue that loads and a queue that stores, each in order, so
    that neither waits for the other; how kernels divide them is not published, hence the band.
    """

    core: str = "NeuronCore"
    home: str = "hbm"
    tick_hz: int | None = 4_800_000_000
    engines: Mapping[str, str | None] = dataclasses.field(default_factory=lambda: dict(_ENGINES))
    capacity: Mapping[str, str | None] = dataclasses.field(default_factory=lambda: dict(_CAPACITY))
    partitioned: Mapping[str, tuple[int, int]] = dataclasses.field(
        default_factory=lambda: {"sbuf": (128, 1), "psum": (128, 2048)}
    )

    tensor_hz: Quantity
    vector_hz: Quantity
    scalar_hz: Quantity
    gpsimd_hz: Quantity
    cores_per_chip: Quantity
    partitions: Quantity
    sbuf_bytes: Quantity
    psum_bytes: Quantity
    hbm_bytes: Quantity
    moving_free_limit: Quantity
    min_interval_cycles: Quantity
    fp32_passes: Quantity
    weight_load_exposed_cycles: Quantity
    tensor_latency_cycles: Quantity
    vector_latency_cycles: Quantity
    scalar_latency_cycles: Quantity
    gpsimd_overhead_cycles: Quantity
    dma_engine_bytes_per_s: Quantity
    load_queue_engines: Quantity
    store_queue_engines: Quantity
    dma_issue_s: Quantity
    dma_fixed_s: Quantity
    link_bytes_per_s: Quantity
    link_hop_s: Quantity


TRN3 = NeuronCoreSheet(
    name="Trainium3",
    tensor_hz=Quantity(2_400_000_000, "published", _ARCH),
    vector_hz=Quantity(1_200_000_000, "published", _ARCH),
    scalar_hz=Quantity(1_200_000_000, "published", _ARCH),
    gpsimd_hz=Quantity(1_200_000_000, "published", _ARCH),
    cores_per_chip=Quantity(8, "published", _CHIP),
    partitions=Quantity(128, "published", _ARCH),
    sbuf_bytes=Quantity(32 * 2**20, "published", _ARCH),
    psum_bytes=Quantity(2 * 2**20, "published", _ARCH),
    # The whole chip's: one of its eight cores runs, so the other cores' share is idle.
    hbm_bytes=Quantity(144 * 2**30, "published", _CHIP),
    moving_free_limit=Quantity(4096, "published", _ARCH),
    min_interval_cycles=Quantity(
        64, "published", f"{_ISA}: MIN_II, stated for NeuronCore-v2 and unconfirmed for v4"
    ),
    fp32_passes=Quantity(4, "published", _ISA),
    weight_load_exposed_cycles=Quantity(
        10, "assumed", "about 10 stay exposed in Trn2's matmul tutorial profile", 0, 32
    ),
    tensor_latency_cycles=Quantity(
        390, "assumed", "Trn1 profile: a pass takes n + m + about 390 cycles", 128, 390
    ),
    vector_latency_cycles=Quantity(
        160, "assumed", "Trn2 profile: PSUM to SBUF copy; SDK: about 60; Trn1 SBUF: 380", 60, 380
    ),
    scalar_latency_cycles=Quantity(
        353, "assumed", "Trn2 profile: 401 ns for 128 elements at 1.2 GHz; SDK: about 60", 60, 353
    ),
    gpsimd_overhead_cycles=Quantity(150, "published", _ISA),
    dma_engine_bytes_per_s=Quantity(
        33_000_000_000, "published", f"{_DMA}; peak 38.4 GB/s; Trn2 fits are within 25 %",
        38_400_000_000, 24_750_000_000,
    ),
    load_queue_engines=Quantity(12, "assumed", "division of 16 DMA engines by kernels", 16, 8),
    store_queue_engines=Quantity(4, "assumed", "division of 16 DMA engines by kernels", 16, 4),
    dma_issue_s=Quantity(
        0.25e-6, "assumed", "Trn2 fit: 0.25 us a dma_copy on one stream; several in flight less",
        0.0625e-6, 0.3125e-6,
    ),
    dma_fixed_s=Quantity(
        1.3e-6, "published", f"{_DMA}: about 1300 ns from semaphore to start; measured 0.9 to 1.3",
        0.9e-6, 1.3e-6,
    ),
    link_bytes_per_s=Quantity(
        1.28e12, "derived",
        f"{_CHIP}: 2.56 TB/s a chip, both directions; {_SYSTEM} lists links of 704 GB/s in sum",
        2.56e12, 0.352e12,
    ),
    link_hop_s=Quantity(1.5e-6, "published", f"{_COLLECTIVES}: hop of 1 to 2 us", 1e-6, 2e-6),
)  # fmt: skip
