"""Queues and routers of a wafer in plain Python: one wavelet a cycle over each link.

Queues hold (cycle from which it is there, kind, tag); what is under way is in the queue that it
goes to, and counts there. A PE is its flat index `y * width + x`.
"""

import collections
import dataclasses
from typing import Any

from emu.wse.fabric import ops
from emu.wse.fabric.directions import OPPOSITE, RAMP
from emu.wse.fabric.encoding.encode import Encoded

NEVER = -1
STEPS = ((-1, 0), (0, 1), (1, 0), (0, -1))  # (dy, dx) of each direction


@dataclasses.dataclass
class Simulated:
    """What happened.

    Attributes:
      order: (cycle, PE, instruction) of each dispatch; -2 - task where a data task starts.
      operations: [instruction, PE, dispatch, first issue, last issue] of each vector operation.
      ends: per PE, when its main thread was last done, microthreads included.
      stamps: per name and PE, the cycle read.
      links: wavelets that routers sent, per (direction, PE).
      read: per (color, PE), the tags `(sender, color, number)` of the wavelets taken in order.
      unread: per (color, PE), wavelets left in its input queue.
      stuck: PEs that had not finished, each with what it waits for.
      stranded: wavelets left in output queues and routers.
      mixed: (cycle, PE, color) where a router had two arrivals that it might forward.
    """

    order: list[tuple[int, int, int]] = dataclasses.field(default_factory=list)
    operations: list[list[int]] = dataclasses.field(default_factory=list)
    ends: dict[int, int] = dataclasses.field(default_factory=dict)
    stamps: dict[tuple[str, int], int] = dataclasses.field(default_factory=dict)
    links: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    read: dict = dataclasses.field(
        default_factory=lambda: collections.defaultdict(list)
    )
    unread: dict = dataclasses.field(default_factory=dict)
    stuck: dict = dataclasses.field(default_factory=dict)
    stranded: int = 0
    mixed: list = dataclasses.field(default_factory=list)


class Routers:
    """The fabric's state in cycle `t`.

    Every decision of a cycle sees the state at its start, arrivals included; what is put in `later`
    is done as the next cycle starts.
    """

    def __init__(self, e: Encoded):
        self.e, self.d, self.t = e, e.device, 0
        self.height, self.width = e.program.shape
        self.pes = range(self.height * self.width)
        self.colors = list(e.program.colors.values())
        self.out: dict = collections.defaultdict(collections.deque)  # (color, PE)
        # (color, PE, direction).
        self.fifo: dict = collections.defaultdict(collections.deque)
        self.into: dict = collections.defaultdict(collections.deque)  # (color, PE)
        self.position: dict = collections.defaultdict(int)  # (color, PE)
        self.last_up: dict = collections.defaultdict(lambda: NEVER)  # (color, PE)
        self.last_go: dict = collections.defaultdict(lambda: NEVER)  # (color, PE)
        self.did = Simulated()
        self.later: list = []
        self.busy = False

    def there(self, queue: Any) -> bool:
        """Whether a queue's head is in it."""
        return bool(queue) and queue[0][0] <= self.t

    def key(self, queues: dict, *at: int) -> tuple:
        return (id(queues), *at)

    def see(self) -> None:
        """Counts what is in every queue, or on its way there, as this cycle starts."""
        self.held = collections.Counter()
        for queues in (self.out, self.fifo, self.into):
            for at, queue in queues.items():
                self.held[self.key(queues, *at)] = len(queue)

    def up(self, n: int) -> None:
        """One output queue hands a wavelet to the router."""
        room = int(self.d.router_queue_words + self.d.ramp_cycles)
        wants = [
            c
            for c in range(len(self.colors))
            if self.there(self.out[c, n])
            and self.held[self.key(self.fifo, c, n, RAMP)] < room
        ]
        if wants:
            c = min(wants, key=lambda c: (self.last_up[c, n], c))
            _, kind, tag = self.out[c, n].popleft()
            self.fifo[c, n, RAMP].append((self.t + int(self.d.ramp_cycles), kind, tag))
            self.last_up[c, n] = self.t
            self.busy = True

    def go(self, n: int) -> None:
        """The router forwards the head of each color that wins all the links it wants."""
        heads = {
            c: found for c in range(len(self.colors)) if (found := self.head(c, n))
        }
        for c, (side, sends) in heads.items():
            rivals = [
                o for o, (_, wanted) in heads.items() if o != c and wanted & sends
            ]
            if all((self.last_go[c, n], c) < (self.last_go[o, n], o) for o in rivals):
                self.later.append(
                    lambda c=c, side=side, sends=sends: self.sent(c, n, side, sends)
                )
                self.busy = True

    def head(self, c: int, n: int) -> tuple[int, set[int]] | None:
        """Direction of the wavelet that the router could forward and where it goes, if it may."""
        color, at = self.colors[c], self.position[c, n]
        receive = int(color.receive[at].reshape(-1)[n])
        sends = int(color.send[at].reshape(-1)[n])
        sides = [
            s for s in range(5) if receive >> s & 1 and self.there(self.fifo[c, n, s])
        ]
        if sum(any(x[0] == self.t for x in self.fifo[c, n, s]) for s in sides) > 1:
            self.did.mixed.append((self.t, n, c))
        if not sides:
            return None
        control = self.fifo[c, n, sides[0]][0][1] != ops.DATA
        wanted = {s for s in range(5) if sends >> s & 1 and not (control and s == RAMP)}
        return (sides[0], wanted) if all(self.room(c, n, s) for s in wanted) else None

    def beside(self, n: int, side: int) -> int:
        return n + STEPS[side][0] * self.width + STEPS[side][1]

    def room(self, c: int, n: int, side: int) -> bool:
        if side == RAMP:
            depth = self.d.input_queue_words[self.colors[c].input_queue]
            return self.held[self.key(self.into, c, n)] < depth + self.d.ramp_cycles
        held = self.held[self.key(self.fifo, c, self.beside(n, side), OPPOSITE[side])]
        return held < self.d.router_queue_words + self.d.hop_cycles

    def sent(self, c: int, n: int, side: int, sends: set[int]) -> None:
        """A wavelet that left in the cycle before is on its way; a control wavelet acts."""
        left = self.t - 1
        _, kind, tag = self.fifo[c, n, side].popleft()
        for s in sends:
            if s == RAMP:
                self.into[c, n].append((left + int(self.d.ramp_cycles), kind, tag))
            else:
                there = self.fifo[c, self.beside(n, s), OPPOSITE[s]]
                there.append((left + int(self.d.hop_cycles), kind, tag))
            self.did.links[s, n] += 1
        self.last_go[c, n] = left
        acts = kind == ops.ALL or (kind == ops.OWN and side == RAMP)
        color = self.colors[c]
        if acts and color.heeds.reshape(-1)[n]:
            self.position[c, n] = min(
                self.position[c, n] + 1, int(color.last.reshape(-1)[n])
            )
