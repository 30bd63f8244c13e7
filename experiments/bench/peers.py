"""What other simulators took for the same work, and what they predicted.

Measured 2026-11-22 on two cores of a shared EPYC (AVX-512), 23 GB, Python 3.11: CPU seconds, user
and system, of the whole process, the least of the repeats. The other core was often busy: read a
figure as ±50 %, a ratio above 3 as safe. `array128` is a 128 x 128 array at 1 GHz with 800 GB/s;
the layer's attention is the full rectangle there, 62.91 M cycles at 100 % of that array.
"""

import dataclasses

from experiments.bench.work import GEMM_SIZE

ARRAY = 128  # rows and columns of the array that multiplies, theirs and ours
# Multiply-adds of one Llama-3.1-8B layer over 4096 tokens, every query with every key.
# Per token and width: 6,144 columns of q, k and v (4,096 + 2 · 1,024), 4,096 of the output and
# three times 14,336 of the MLP; then 4,096 queries by 4,096 keys by 4,096 features, twice.
LAYER_MACS = 4096 * 4096 * (6144 + 4096 + 3 * 14336) + 2 * 4096 * 4096 * 4096
IDEAL_CYCLES = {"gemm": GEMM_SIZE**3 / ARRAY**2, "layer": LAYER_MACS / ARRAY**2}


@dataclasses.dataclass(frozen=True)
class Peer:
    """One tool on one piece of work of `experiments.bench.work`.

    Attributes:
      work: which.
      tool: name and version or commit.
      predicts: what it reports.
      cpu_s: of the whole process.
      peak_mb: its largest resident set, MB, where it was noted.
    """

    work: str
    tool: str
    predicts: str
    cpu_s: float
    peak_mb: float | None = None


PEERS = (
    Peer("gemm", "ZigZag 3.9.1", "540,928 cycles (+3.2 %)", 1.9, 166),
    Peer("gemm", "ONNXim a1e8629", "527,151 cycles (+0.5 %)", 9.4, 118),
    Peer("gemm", "LLMCompass 2e015fd", "546,536 cycles (+4.2 %)", 126, 373),
    Peer("gemm", "SCALE-Sim 3.0.0", "622,079 cycles (+18.7 %)", 289, 6491),
    Peer("gemm", "GenZ 0.0.16 (roofline)", "0.524 ms", 1.4, 221),
    Peer("layer", "ZigZag 3.9.1, no softmax or norms", "64.04 M cycles (+1.8 %)", 8.2),
    Peer("layer", "LLMCompass 2e015fd, A100", "8.588 ms", 234),
    Peer("layer", "LLMCompass, array128, GEMMs", "64.95 M cycles (+3.2 %)", 955, 603),
    Peer("layer", "ONNXim a1e8629", "66.79 M cycles (+6.2 %)", 1665, 2400),
    Peer("layer", "GenZ 0.0.16 (roofline)", "62.9 ms", 1.5),
    Peer("prefill", "LLMCompass 2e015fd, A100", "274.8 ms", 234),
    Peer("prefill", "GenZ 0.0.16 (roofline)", "2,276 ms", 1.4),
    Peer("prefill", "LLM-Viewer 472f71f (roofline)", "2,115 ms", 0.76),
    Peer("prefill", "jax.experimental.roofline 0.10.2", "2,013 ms", 0.63),
    Peer("decode", "LLMCompass 2e015fd, A100", "7.92 ms", 4.4),
    Peer("decode", "ZigZag 3.9.1", "20.7 ms", 3.8),
    Peer("decode", "ONNXim a1e8629, one layer", "1.81 M cycles", 68),
    Peer("decode", "GenZ 0.0.16 (roofline)", "18.1 ms", 1.5),
    Peer("decode", "LLM-Viewer 472f71f (roofline)", "19.5 ms", 0.76),
)
