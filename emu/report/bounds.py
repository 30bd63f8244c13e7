"""Bounds and utilisations under the names AWS's profiler gives them, from a handful of quantities.

Each bound is the time a kernel would take if one kind of overhead were gone. Sources:
aws-neuron/neuron-agentic-development, `performance-bounds.md` (bounds, gaps, speedup) and its
profiling metrics reference (MFU, HFU, MBU, arithmetic intensity); aws-neuron-sdk,
`tools/neuron-explorer/glossary.rst` (`adjusted_flops`).
"""

import dataclasses
import math
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantities:
    """What one core did and what it could do at most; every bound is a formula over these.

    FLOPs are `adjusted_flops`: 2 a multiply-add, times how much longer the Tensor Engine takes for
    the data type than for bf16: 4 for fp32, 1 for bf16, fp16 and tf32, 0.5 for fp8.

    Attributes:
      total_time_s: of the kernel on the device.
      dma_active_time_s: in which at least one DMA queue was moving data.
      dma_transfer_bytes: moved by DMA, reloads and spills included.
      necessary_bytes: of the kernel's inputs and outputs, each tensor once.
      te_active_time_s: in which the Tensor Engine executed, its waits excluded.
      hardware_flops: of every Tensor Engine instruction, transposes included.
      transpose_flops: the part of them that transposes data.
      model_flops: of the algorithm; None takes those of the instructions without the transposes,
        as the profiler does for kernels that no compiler counted.
      hbm_bytes: read from and written to HBM.
      engine_active_time_s: of every compute engine, the Tensor Engine included.
      peak_flops_per_s: 2 · rows · columns · clock of the Tensor Engine.
      peak_dma_bytes_per_s: of all the core's DMA engines together.
      peak_hbm_bytes_per_s: of the HBM stack that the core uses.
    """

    total_time_s: float
    dma_active_time_s: float
    dma_transfer_bytes: float
    necessary_bytes: float
    te_active_time_s: float
    hardware_flops: float
    transpose_flops: float
    model_flops: float | None = None
    hbm_bytes: float
    engine_active_time_s: Mapping[str, float]
    peak_flops_per_s: float
    peak_dma_bytes_per_s: float
    peak_hbm_bytes_per_s: float

    @property
    def executed_flops(self) -> float:
        """Of instructions other than transposes."""
        return self.hardware_flops - self.transpose_flops

    @property
    def useful_flops(self) -> float:
        """`model_flops`, or what stands for it."""
        return self.executed_flops if self.model_flops is None else self.model_flops


DMA = "dma"


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Times in seconds; see `bounds`."""

    total_time: float
    memory_bound: float
    memory_bound_ideal: float
    memory_bound_no_reloads: float
    compute_bound: float
    compute_bound_ideal: float
    compute_bound_useful: float
    perfect_pipeline: float
    bottleneck_engine: str
    speedup_cap: Mapping[str, float]

    def gaps(self) -> dict[str, float]:
        """Seconds between consecutive bounds of a family: where the overhead is.

        Gaps are not improvements: another engine may take the time that one gives back.
        """
        return {
            "DMA idle": self.total_time - self.memory_bound,
            "DMA inefficiency": self.memory_bound - self.memory_bound_ideal,
            "excess traffic": self.memory_bound_ideal - self.memory_bound_no_reloads,
            "TE idle": self.total_time - self.compute_bound,
            "TE underutilisation": self.compute_bound - self.compute_bound_ideal,
            "transposes": self.compute_bound_ideal - self.compute_bound_useful,
            "serialisation": self.total_time - self.perfect_pipeline,
        }


def bounds(q: Quantities) -> Bounds:
    """The bounds of three families, in seconds.

    * `memory_bound = dma_active_time`; `memory_bound_ideal = dma_transfer_bytes / peak`;
      `memory_bound_no_reloads = necessary_bytes / peak`: all compute hidden behind data movement.
    * `compute_bound = te_active_time`; `compute_bound_ideal = hardware_flops / peak`;
      `compute_bound_useful = (hardware_flops - transpose_flops) / peak`: all data movement hidden.
    * `perfect_pipeline = max(active time of every engine, DMA included)`: perfect overlap.

    `speedup_cap` is, by bound, `total_time / max(bound, longest engine that the bound leaves as it
    is)`: a memory bound improves DMA alone and a compute bound the Tensor Engine alone.
    """
    active = {**q.engine_active_time_s, DMA: q.dma_active_time_s}
    slowest = max(active, key=lambda engine: active[engine])
    # Faster data movement leaves the longest compute engine as it is, and the other way round.
    but_dma = {engine: time for engine, time in active.items() if engine != DMA}
    but_tensor = {engine: time for engine, time in active.items() if engine != "tensor"}
    memory = {
        "memory_bound": q.dma_active_time_s,
        "memory_bound_ideal": q.dma_transfer_bytes / q.peak_dma_bytes_per_s,
        "memory_bound_no_reloads": q.necessary_bytes / q.peak_dma_bytes_per_s,
    }
    compute = {
        "compute_bound": q.te_active_time_s,
        "compute_bound_ideal": q.hardware_flops / q.peak_flops_per_s,
        "compute_bound_useful": q.executed_flops / q.peak_flops_per_s,
    }
    pipeline = {"perfect_pipeline": active[slowest]}
    caps = {
        **_caps(q.total_time_s, memory, unchanged=but_dma),
        **_caps(q.total_time_s, compute, unchanged=but_tensor),
        **_caps(q.total_time_s, pipeline, unchanged={}),
    }
    return Bounds(
        total_time=q.total_time_s,
        **memory,
        **compute,
        **pipeline,
        bottleneck_engine=slowest,
        speedup_cap=caps,
    )


def _caps(
    total: float, times: Mapping[str, float], unchanged: Mapping[str, float]
) -> dict[str, float]:
    # Example: 100 us in all, DMA active 80, Tensor 60, Vector 50. With ideal DMA, 40 us, the Tensor
    # Engine would take 60 still: at most 100 / 60, where 100 / 40 would promise too much.
    others = max(unchanged.values(), default=0.0)
    return {name: _ratio(total, max(time, others)) for name, time in times.items()}


def _ratio(over: float, under: float) -> float:
    if under:
        return over / under
    return math.inf if over else 0.0


@dataclasses.dataclass(frozen=True)
class Utilisation:
    """Shares of a peak, 0 to 1, and where the roofline bends; see `utilisation`."""

    mfu: float
    hfu: float
    mbu: float
    mfu_max_achievable: float
    mm_arithmetic_intensity: float
    peak_flops_bandwidth_ratio: float


def utilisation(q: Quantities) -> Utilisation:
    """MFU, HFU and MBU as the profiler estimates them.

    * `mfu = model_flops / (peak_flops · total_time)`: useful FLOPs only.
    * `hfu = hardware_flops / (peak_flops · total_time)`: transposes included.
    * `mbu = hbm_bytes / (peak_hbm · total_time)`.
    * `mm_arithmetic_intensity = (hardware_flops - transpose_flops) / hbm_bytes`.
    * `mfu_max_achievable = (model_flops / hbm_bytes) / (peak_flops / peak_hbm)`, at most 1: the
      roofline at this kernel's traffic.
    """
    # On Trainium2 78.6 TFLOP/s over a stack's 0.725 TB/s: 108 FLOPs a byte.
    ridge = q.peak_flops_per_s / q.peak_hbm_bytes_per_s
    return Utilisation(
        mfu=_ratio(q.useful_flops, q.peak_flops_per_s * q.total_time_s),
        hfu=_ratio(q.hardware_flops, q.peak_flops_per_s * q.total_time_s),
        mbu=_ratio(q.hbm_bytes, q.peak_hbm_bytes_per_s * q.total_time_s),
        mfu_max_achievable=min(1.0, _ratio(q.useful_flops, q.hbm_bytes) / ridge),
        mm_arithmetic_intensity=_ratio(q.executed_flops, q.hbm_bytes),
        peak_flops_bandwidth_ratio=ridge,
    )
