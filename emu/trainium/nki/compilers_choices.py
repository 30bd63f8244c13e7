"""How far measured kernels are from the compiled reading, by the compiler's own choices.

A datasheet's bands say how well the machine is known, and nothing of the compiler: in what order it
issues, what it spills, which engine it takes. How far that carries is not published; it shows in
what remains between measured kernels and the nominal reading. Only kernels to which the clock may
be fitted count here, so those that are only predicted still test the band.

The factor is the smallest that a new kernel of the same kind stays within with probability `SHARE`,
whatever the distribution: of n distances, sorted, the one at place ceil((n + 1) · SHARE) (split
conformal prediction; Vovk, Gammerman and Shafer, "Algorithmic learning in a random world", 2005).
With nine kernels that is the eighth: the farthest, rope, does not decide it.
"""

import math
from collections.abc import Iterable, Mapping

SHARE = 0.8
# How far a band reaches at most. That every number of a datasheet is at its end in one kernel is
# the worst case and not a likely one; a band beyond this would say nothing.
MOST = 1.5

# Measured latency by the nominal one of the compiled reading on Trainium1, as `python -m
# experiments.calibration --kernels` has them. It prints the factor of what it reads beside this
# one's: where they differ, the clock has changed and these are to be brought up to date.
MEASURED_BY_PREDICTED: Mapping[str, float] = {
    "T1-AC-ATT-0": 3.093 / 3.139,
    "T1-AC-ATT-3": 1.016 / 1.029,
    "T1-AC-ATT-4": 0.691 / 0.738,
    "T1-AC-MM-1": 11.8 / 11.803,
    "T1-AC-MM-4": 6.96 / 6.898,
    "T1-NKIB-bmm-base": 4.611 / 4.544,
    "T1-NKIB-gqa_full-base": 19.111 / 17.941,
    "T1-NKIB-rope_single_freq_apply-base": 4.333 / 3.110,
    "T1-NKIB-swiglu-base": 4.222 / 3.901,
}


def factor(ratios: Iterable[float]) -> float:
    """The factor, up and down, of some ratios of measured and predicted latency.

    Example: of 1.0, 0.9, 1.05, 1.2 and 1.4 the place is ceil(6 · 0.8) = 5: 1.4. Of fewer than four
    no factor could be told, and it is the farthest.
    """
    distances = sorted(abs(math.log(each)) for each in ratios)
    place = math.ceil(round((len(distances) + 1) * SHARE, 9))
    return math.exp(distances[min(place, len(distances)) - 1])


FACTOR = factor(MEASURED_BY_PREDICTED.values())


def widened(band: Mapping[str, float]) -> dict[str, float]:
    """A band of latencies by the machine's numbers, with the compiler's choices in it.

    The two have nothing to do with each other, so their distances add as squares, in logarithms. No
    end is farther than `MOST` from nominal.

    Example: 80 / 100 / 130 with a factor of 1.2: sqrt(ln(1.3)² + ln(1.2)²) = 0.319, so the high end
    is 100 · e^0.319 = 138, and the low one 75.
    """
    nominal = band["nominal"]
    own = math.log(FACTOR)
    down, up = (math.log(nominal / band["low"]), math.log(band["high"] / nominal))
    most = math.log(MOST)
    return {
        "low": nominal * math.exp(-min(most, math.hypot(down, own))),
        "nominal": nominal,
        "high": nominal * math.exp(min(most, math.hypot(up, own))),
    }


__all__ = ["FACTOR", "MOST", "factor", "widened"]
