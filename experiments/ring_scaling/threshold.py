"""From how many tokens per rank a hop's transfer hides: by the clock, and in closed form.

A hop's transfer hides if it takes no longer than a rank's attention to one block: with c tokens per
rank, g query heads per KV head, d features, elements of e bytes, a live share rho of the tile of
scores, F FLOP/s, and B bytes/s with a latency a of a link,

    4·c²·h_q·d·rho / F  >=  2·c·h_kv·d·e / B + a

so without latency c >= (F/B)·e / (2·g·rho). F is not a constant of a kernel: with few tokens each
hop takes a least time whatever it does, and small transfers hide behind that. So the threshold is
looked for from above: the least c from which on transfers hide, at every size tried.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator

import jax.numpy as jnp
import numpy as np

from emu.datasheet import Device
from emu.trainium.links.routes import shifted
from experiments.ring_scaling.cases import HEAD_DIM, HEADS, MACHINES, Point
from experiments.ring_scaling.measure import DTYPE, Row, links, measure

HIDDEN = 0.01  # exposed communication over the time with free links
LEAST, MOST, STEP = 64, 32768, 64  # tokens per rank that are tried, and how finely
SLOWER = ((1, 1.0), (HEADS, 1.0), (1, 1 / 4))  # KV heads, rate of the links
# Share of a hop's tile of scores; causal: in zigzag.
LIVE = {
    "full": 1.0,
    "causal": 0.5,
}


@dataclasses.dataclass(frozen=True)
class Question:
    """One threshold to find.

    Attributes:
      point: whose `share` is sought.
      link_times: rate of the links over the machine's.
    """

    point: Point
    link_times: float = 1.0

    @property
    def told(self) -> str:
        point = self.point
        heads = f"{point.heads}/{point.kv_heads} heads"
        links = f"links x {self.link_times:g}"
        return f"{point.machine}, {point.mask}, {heads}, {links}"


@dataclasses.dataclass(frozen=True)
class Threshold:
    """What was found.

    Attributes:
      question: what was sought.
      least: tokens per rank from which on transfers hide; None: more than the most tried.
      always: nothing smaller that was tried, down to `LEAST`, is exposed.
      flops_per_s: what a core reached there, links free, and `peak_flops_per_s`, its peak.
      link_bytes_per_s: one core's share of the slowest link that a hop uses.
      latency_s: of a hop.
      closed, with_latency, at_peak: the closed form at the rate reached, with the latency term
        and, with that, at the peak.
    """

    question: Question
    least: int | None
    always: bool
    flops_per_s: float
    peak_flops_per_s: float
    link_bytes_per_s: float
    latency_s: float
    closed: float
    with_latency: float
    at_peak: float


def closed_form(
    flops_per_s: float, link_bytes_per_s: float, point: Point, latency_s: float = 0.0
) -> float:
    """Tokens per rank from which a hop hides."""
    live, each = LIVE[point.mask], jnp.dtype(DTYPE).itemsize
    whole = (
        flops_per_s
        / link_bytes_per_s
        * each
        * point.kv_heads
        / (2 * point.heads * live)
    )
    late = latency_s * flops_per_s / (4 * point.heads * HEAD_DIM * live)
    # Divided by 4·h_q·d·rho / F the condition is c² - whole · c - late >= 0, true from its positive
    # root on; without latency that is `whole`. Full mask on four Trainium3 chips at the peak: 16
    # GB/s of a core's link give 614 tokens, 658 with the latency.
    return whole / 2 + math.sqrt(whole**2 / 4 + late)


def link_share(device: Device, ranks: int) -> float:
    """Bytes/s of one core over the slowest link of a ring's hop, all cores sending at once."""
    load = np.full(ranks, float(device.cores_running))
    return 1 / float(shifted(device, (ranks,), 0, (1,), load).seconds_per_byte.max())


def questions(most: int, *, whole: bool, machine: str | None = None) -> list[Question]:
    """The thresholds to find: a KV head for all heads or for each, links as they are or slower.

    Args:
      most: ranks that there may be.
      whole: on several machines.
      machine: on this one alone.
    """
    ranks = min(4, most)
    if ranks == 1:
        return []
    placed = {"full": "contiguous", "causal": "zigzag"}
    machines = ("Trn3 Gen2", "Trn2 torus", "Trn1") if whole else ("Trn3 Gen2",)
    if machine is not None:
        machines = (machine,)
    found = []
    for machine in machines:
        for mask, (kv_heads, times) in itertools.product(LIVE, SLOWER):
            if whole or mask == "full" or (kv_heads, times) == SLOWER[-1]:
                point = Point(
                    machine=machine,
                    mask=mask,
                    ranks=ranks,
                    placement=placed[mask],
                    kv_heads=kv_heads,
                )
                found.append(Question(point, times))
    return found


def find(question: Question) -> Iterator[Row | Threshold]:
    """Every reading on the way to the threshold, then the threshold."""
    sheet = links(MACHINES[question.point.machine].sheet, question.link_times)
    rows: dict[int, Row] = {}
    device, point = sheet.at(), question.point
    peak = float(device.bf16_flops_per_s)
    rate = link_share(device, point.ranks)
    # A kernel reaches less than the peak, and so hides its hops with fewer tokens.
    guess = closed_form(peak, rate, point, float(device.link_hop_s)) / 4
    for tokens in _search(lambda tokens: hides(rows[tokens]), guess):
        rows[tokens] = measure(dataclasses.replace(point, share=tokens), sheet)
        yield rows[tokens]
    yield _threshold(question, device, rows)


def hides(row: Row) -> bool:
    return row.exposed_s <= HIDDEN * row.free_s


def _search(hidden: Callable[[int], bool], guess: float) -> Iterator[int]:
    """Sizes to look at: up until one hides, down until one does not, then the gap halved."""
    # Example: it hides from 700 on, and the guess is 300. Tried are 512, 1,024, 512 again, 768, 640
    # and 704: to 64 tokens, or an eighth of the largest that does not hide.
    high = min(MOST, max(LEAST, 2 ** math.ceil(math.log2(guess))))
    yield high
    while not hidden(high):
        if high == MOST:
            return
        high *= 2
        yield high
    low = high // 2
    while low >= LEAST:
        yield low
        if not hidden(low):
            break
        low, high = low // 2, low
    while low >= LEAST and high - low > max(STEP, low // 8):
        middle = (low + high) // 2 // STEP * STEP
        yield middle
        low, high = (low, middle) if hidden(middle) else (middle, high)


def _threshold(question: Question, device: Device, rows: dict[int, Row]) -> Threshold:
    point = question.point
    exposed = [tokens for tokens, row in rows.items() if not hides(row)]
    # Above the largest that is exposed: a small size may hide by its least time, and would else be
    # taken for the threshold.
    hiding = [tokens for tokens in rows if tokens > max(exposed, default=0)]
    least = min(hiding, default=None)
    flops = rows[least or max(rows)].reached_flops_per_s
    peak = float(device.bf16_flops_per_s)
    rate = link_share(device, point.ranks)
    hop_s = float(device.link_hop_s)
    return Threshold(
        question,
        least,
        not exposed,
        flops,
        peak,
        rate,
        hop_s,
        closed_form(flops, rate, point),
        closed_form(flops, rate, point, hop_s),
        closed_form(peak, rate, point, hop_s),
    )
