"""What a NeuronCore's datasheet says: every field, with the numbers all generations share."""

import dataclasses
from collections.abc import Mapping

from emu.datasheet import Quantity, Sheet
from emu.trainium.datasheets.instead import INSTEAD
from emu.trainium.datasheets.limits import START_PARTITIONS
from emu.trainium.datasheets.topology import System

ARCH = "aws-neuron-sdk 2.32 nki/guides/architecture"
HARDWARE = "aws-neuron-sdk 2.32 about-neuron/arch/neuron-hardware"
ISA = "aws-neuron-sdk 2.26.1 nki/api/nki/isa/__init__.py"
DMA = "aws-neuron-sdk 2.32 nki/deep-dives/nki-dma-bandwidth-guide.rst"
DMA_OVERVIEW = "aws-neuron-sdk 2.32 nki/get-started/about/nki-dma-overview.rst"
COLLECTIVES = "aws-neuron-sdk 2.32 neuron-runtime/explore/intranode-collective-comm.rst"
_PERFORMANCE = "aws-neuron-sdk nki/deep-dives/nki_perf_guide.rst"

LOAD_QUEUES = ("load_queue", "load_queue2")
DMA_QUEUES = (*LOAD_QUEUES, "store_queue", "store_queue2")
_COMPUTE_ENGINES = ("tensor", "weight_load", "vector", "scalar", "gpsimd")
_ENGINES = {
    "tensor": "tensor_hz",
    "vector": "vector_hz",
    "scalar": "scalar_hz",
    "gpsimd": "gpsimd_hz",
    "weight_load": "tensor_hz",
    **dict.fromkeys(DMA_QUEUES),
    "neuronlink": None,
    "collective": None,
}
_CAUSES = {
    "load_queue": "load",
    "load_queue2": "load",
    "store_queue": "store",
    "store_queue2": "store",
    "neuronlink": "link",
}
_CAPACITY = {
    "hbm": "hbm_bytes",
    "sbuf": "sbuf_bytes",
    "psum": "psum_bytes",
    "array": "array_bytes",
}
_PARTITIONED = {"sbuf": (128, 1), "psum": (128, 2048), "array": (128, 512)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeuronCoreSheet(Sheet):
    """One NeuronCore, its share of the chip, and the chip.

    The DMA queues are engines of their own, each in order; the DMA engines behind them are shared.

    Attributes:
      generation: of the NeuronCore, as AWS counts them: `-v2` in Trainium1 to `-v4` in Trainium3.
        It says which systems take the chip; no cost follows from it.
      system: whose links join the chip to others (`on_system`); None puts any number of chips one
        hop apart, at `link_bytes_per_s`.
      tensor_hz, vector_hz, scalar_hz, gpsimd_hz: clocks.
      partitions: rows of SBUF and PSUM, and of the array of the Tensor Engine.
      sbuf_bytes, psum_bytes: of one core.
      array_bytes: stationary tiles that the Tensor Engine holds, each element in 4 bytes.
      extra_instructions: names of the instructions that it has and some generation has not.
      scalar_elementwise: whether the Scalar Engine runs tensor_copy and tensor_scalar too.
      reciprocal_takes_bias: whether the Scalar Engine adds a bias before a reciprocal.
      shared_ports: `(engine, engine, memory)`, two engines that cannot use it at the same time.
      fast_bytes: sizes of a float for which the Vector Engine has its fast modes.
      vector_copy_elements: that a copy in a fast mode moves a cycle in each partition, by how many
        of its two tiles lie in PSUM.
      scalar_copy_elements: the same of the Scalar Engine, wherever its tiles lie.
      vector_pair_elements: that the Vector Engine takes a cycle in each partition from each of two
        tiles in SBUF: in any format, and in a fast mode.
      vector_reciprocal_cycles: of the Vector Engine, for each element.
      matmul_result_dtypes: of a matmul's destination in PSUM.
      transposes_in_input_dtype: whether the Tensor Engine transposes elements as they are; else a
        transpose is a product with the identity, in float32.
      fp32_transpose_passes: how often the array is streamed to transpose float32.
      bf16_flops_per_s, fp8_flops_per_s, fp32_flops_per_s: the Tensor Engine's peaks, multiply-add
        counting 2, as AWS's profiler uses them.
      cores_per_chip, cores_running: physical cores, and those that share the HBM now.
      hbm_bytes: what one running core may fill.
      hbm_stacks, hbm_bytes_per_s: of the chip.
      cc_cores: the chip's cores that sequence collectives.
      links: NeuronLinks of the chip.
      chip_bf16_flops_per_s, chip_fp8_flops_per_s, chip_fp32_flops_per_s: as the chip's page says,
        which is not the sum of its cores.
      moving_free_limit: float32 columns of PSUM that one matmul may write.
      min_interval_cycles: least interval of an instruction.
      vector_access_cycles, scalar_access_cycles: for which the engine is busy besides the interval,
        reaching SBUF or PSUM; part of its latency.
      fp32_passes: how often the array is streamed for float32 operands.
      weight_load_columns_per_cycle: rate at which a stationary tile enters the array.
      weight_load_exposed_cycles: the part of each load that no earlier matmul hides.
      transposes_at_once: how many transposes the Tensor Engine runs side by side.
      tensor_latency_cycles, vector_latency_cycles, scalar_latency_cycles: from the end of the
        interval to the result written, for the Tensor Engine besides a cycle per column.
      handover_cycles: of an engine's clock, from a written result to a dependent's start.
      gpsimd_overhead_cycles: of every GpSimd instruction.
      gpsimd_power_cycles: that it takes for one element a partition to a power.
      gpsimd_nonzero_cycles: that it takes to look at one element of a partition and note its place.
      gpsimd_partition_cycles: that it takes for one column of a sum over partitions.
      act_table_load_s: loading the table of another activation function.
      tensor_throttle_window_s, tensor_throttle_share, tensor_throttle_slowdown: the Tensor Engine
        takes `slowdown` times as long while less than `share` of it was used in the last window.
      dma_engines: of one core.
      dma_engine_bytes_per_s, dma_engine_peak_bytes_per_s: what one reaches, and its peak.
      dma_descriptor_s: time of a descriptor besides its bytes.
      dma_copy_s: of the DMA engines, for each copy that uses all of them.
      dma_interval_s: least distance between the starts of two copies of one queue.
      dma_partitions_per_engine: partitions of a copy that one engine serves.
      dma_trigger_s: from the start of a DMA instruction to its first byte.
      dma_generation_s: part of the trigger in which hardware writes the descriptors.
      dma_wakeup_s: from the last byte to the consumer.
      dma_transpose_share, dma_sbuf_transpose_share, dma_accumulate_share: share of a copy's rate
        that a transposing load, a transpose within SBUF and a read-add-write reach.
      semaphore_s: one semaphore instruction.
      link_bytes_per_s: to one neighbour, one direction.
      link_hop_s: one hop of a collective, between chips or between cores of a chip.
      mesh_limit_bytes, rdh_limit_bytes: sizes from which collectives change their algorithm.
    """

    generation: int
    system: System | None = None
    core: str = "NeuronCore"
    home: str = "hbm"
    tick_hz: int | None = 4_800_000_000
    engines: Mapping[str, str | None] = dataclasses.field(
        default_factory=lambda: dict(_ENGINES)
    )
    capacity: Mapping[str, str | None] = dataclasses.field(
        default_factory=lambda: dict(_CAPACITY)
    )
    partitioned: Mapping[str, tuple[int, int]] = dataclasses.field(
        default_factory=lambda: dict(_PARTITIONED)
    )
    causes: Mapping[str, str] = dataclasses.field(default_factory=lambda: dict(_CAUSES))
    throttles: Mapping[str, str] = dataclasses.field(
        default_factory=lambda: {"tensor": "tensor_throttle"}
    )
    start_partitions: Mapping[str, Mapping[int, int]] = dataclasses.field(
        default_factory=lambda: dict.fromkeys(_COMPUTE_ENGINES, START_PARTITIONS)
    )
    instead: Mapping[str, str] = dataclasses.field(default_factory=lambda: INSTEAD)

    tensor_hz: Quantity
    vector_hz: Quantity
    scalar_hz: Quantity
    gpsimd_hz: Quantity
    partitions: Quantity = Quantity(
        128, "published", f"{ARCH}/trainium_inferentia2_arch.rst"
    )
    sbuf_bytes: Quantity
    psum_bytes: Quantity = Quantity(
        2 * 2**20,
        "published",
        f"{ARCH}: 16 KiB a partition in 8 banks, every generation",
    )
    array_bytes: Quantity = Quantity(
        2 * 128 * 512,
        "derived",
        f"{ARCH}: a tile of 128 x 128 in use and one being loaded",
    )
    extra_instructions: Quantity
    scalar_elementwise: Quantity = Quantity(
        True, "published", f"{ARCH}/trainium2_arch.rst: from NeuronCore-v3 on"
    )
    reciprocal_takes_bias: Quantity = Quantity(True, "published", ISA)
    shared_ports: Quantity = Quantity(
        (), "published", f"{ARCH}/trainium2_arch.rst: a port for each engine"
    )
    fast_bytes: Quantity
    vector_copy_elements: Quantity = Quantity(
        (4, 2, 1), "published", f"{ARCH}/trainium2_arch.rst: DVE performance modes"
    )
    scalar_copy_elements: Quantity = Quantity(
        1, "published", f"{ARCH}/trainium2_arch.rst: no fast mode before NeuronCore-v4"
    )
    vector_pair_elements: Quantity
    vector_reciprocal_cycles: Quantity = Quantity(
        1,
        "derived",
        f"T1-NKIB-silu-base takes less than 8 cycles an element alone would; {ISA}: 8",
        1,
        2,
    )
    matmul_result_dtypes: Quantity = Quantity(
        ("float32",), "published", f"{ARCH}: float32 before NeuronCore-v4"
    )
    transposes_in_input_dtype: Quantity = Quantity(
        True, "published", f"{ARCH}/trainium2_arch.rst: transpose mode"
    )
    fp32_transpose_passes: Quantity = Quantity(
        2, "published", f"{ARCH}/trainium2_arch.rst: transpose mode, 4-byte elements"
    )
    bf16_flops_per_s: Quantity
    fp8_flops_per_s: Quantity
    fp32_flops_per_s: Quantity

    cores_per_chip: Quantity
    cores_running: Quantity = Quantity(
        1, "derived", "one core runs unless `with_cores` says more"
    )
    hbm_bytes: Quantity
    hbm_stacks: Quantity
    hbm_bytes_per_s: Quantity
    cc_cores: Quantity
    links: Quantity = Quantity(4, "published", f"{HARDWARE}/trainium*.rst")
    chip_bf16_flops_per_s: Quantity
    chip_fp8_flops_per_s: Quantity
    chip_fp32_flops_per_s: Quantity

    moving_free_limit: Quantity = Quantity(
        512,
        "published",
        f"{ARCH}/trainium_inferentia2_arch.rst: one PSUM bank of 2 KiB",
    )
    min_interval_cycles: Quantity = Quantity(
        64,
        "published",
        f"{ISA}: MIN_II, stated for NeuronCore-v2 and unconfirmed for v3, v4",
    )
    vector_access_cycles: Quantity
    scalar_access_cycles: Quantity
    fp32_passes: Quantity = Quantity(
        4, "published", f"{ISA}; profiles show two instructions of two cycles a column"
    )
    weight_load_columns_per_cycle: Quantity = Quantity(
        4, "published", f"{ARCH}: fast weight load, 128 columns in about 32 cycles"
    )
    weight_load_exposed_cycles: Quantity
    transposes_at_once: Quantity = Quantity(
        1, "published", f"{ARCH}: one, before Trainium3"
    )
    tensor_latency_cycles: Quantity
    vector_latency_cycles: Quantity
    scalar_latency_cycles: Quantity
    handover_cycles: Quantity = Quantity(
        42,
        "assumed",
        f"as on Trainium1; {_PERFORMANCE}: dependent instructions add about 100",
        0,
        100,
    )
    gpsimd_overhead_cycles: Quantity = Quantity(150, "published", ISA)
    gpsimd_power_cycles: Quantity = Quantity(
        4,
        "assumed",
        f"as its rsqrt, four times the Scalar Engine's cycle; {ISA}",
        2,
        16,
    )
    gpsimd_nonzero_cycles: Quantity = Quantity(
        4, "assumed", "unpublished; a load, a test and a conditional store", 1, 16
    )
    gpsimd_partition_cycles: Quantity = Quantity(
        16, "assumed", "unpublished; each core adds its 16 partitions up", 1, 128
    )
    act_table_load_s: Quantity = Quantity(
        1.29e-6,
        "measured",
        "aws-neuron-sdk nki/img: Trainium2 profile; 0.37 us on Trainium1",
        0.37e-6,
        1.29e-6,
    )
    tensor_throttle_window_s: Quantity = Quantity(
        3e-6,
        "published",
        "aws-neuron-sdk 2.32 tools/neuron-explorer/overview-summary-page.rst",
    )
    tensor_throttle_share: Quantity = Quantity(
        0.5,
        "published",
        "aws-neuron-sdk 2.32 tools/neuron-explorer/overview-summary-page.rst",
    )
    tensor_throttle_slowdown: Quantity = Quantity(
        2,
        "published",
        "aws-neuron-sdk 2.32 tools/neuron-explorer/glossary.rst: about 50 %",
    )

    dma_engines: Quantity = Quantity(16, "published", DMA_OVERVIEW)
    dma_engine_bytes_per_s: Quantity
    dma_engine_peak_bytes_per_s: Quantity
    dma_descriptor_s: Quantity
    dma_copy_s: Quantity
    dma_interval_s: Quantity
    dma_partitions_per_engine: Quantity = Quantity(8, "published", DMA_OVERVIEW)
    dma_generation_s: Quantity = Quantity(
        0.6e-6,
        "published",
        f"{ARCH}/trainium2_arch.rst: 600 ns, hidden behind the issuing engine",
    )
    dma_trigger_s: Quantity = Quantity(
        0.9e-6,
        "published",
        f"{DMA_OVERVIEW}: 0.74 to 1.0 us; high: generation not hidden",
        0.74e-6,
        1.6e-6,
    )
    dma_wakeup_s: Quantity = Quantity(
        0.3e-6, "published", f"{DMA_OVERVIEW}; {DMA}: 1.3 us with the trigger"
    )
    dma_transpose_share: Quantity = Quantity(
        0.9, "published", f"{ARCH}/trainium2_arch.rst: up to 90 % of a copy"
    )
    dma_sbuf_transpose_share: Quantity = Quantity(
        0.5, "published", f"{ARCH}/trainium2_arch.rst: up to 50 % of a copy"
    )
    dma_accumulate_share: Quantity = Quantity(
        0.5,
        "published",
        f"{ARCH}/trainium3_arch.rst: 50 % of a copy before NeuronCore-v4",
    )
    semaphore_s: Quantity = Quantity(
        9e-9, "measured", "aws-neuron-sdk nki/img profiles: EVENT_SEMAPHORE about 9 ns"
    )

    link_bytes_per_s: Quantity
    link_hop_s: Quantity = Quantity(
        1.5e-6, "published", f"{COLLECTIVES}: hop of 1 to 2 us", 1e-6, 2e-6
    )
    mesh_limit_bytes: Quantity = Quantity(
        1_000_000, "published", f"{COLLECTIVES}: mesh under 1 MB"
    )
    rdh_limit_bytes: Quantity = Quantity(
        56_000_000,
        "published",
        f"{COLLECTIVES}: recursive doubling and halving to 56 MB",
    )

    @property
    def deployed(self) -> str:
        """`1 of 8 cores a chip run`, and in which system the chip is."""
        cores = f"{self.cores_running.value} of {self.cores_per_chip.value} cores a chip run"
        return cores if self.system is None else f"{cores}, in {self.system.name}"

    @property
    def sbuf_partition_bytes(self) -> int:
        """Bytes of one partition of SBUF."""
        return self.sbuf_bytes.value // self.partitions.value
